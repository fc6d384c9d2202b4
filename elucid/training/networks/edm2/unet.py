"""EDM2's U-Net (Karras et al. 2024, "Analyzing and Improving the Training Dynamics of Diffusion Models")."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elucid.dnnlib.errors import UserError
from elucid.training.networks.conditioning import NUMBERS, Conditioned
from elucid.training.networks.edm2.blocks import Balance, Design, EDM2Block
from elucid.training.networks.edm2.layers import FourierFeatures, UnitLayer, force_unit_rows
from elucid.training.networks.layers import PositionalEmbedding
from elucid.training.networks.resolutions import BOTTLENECK, ResolutionPlan, inner_layers, limit_dropout
from elucid.training.types import Cond, Step


class EDM2UNet(Conditioned):
    """U-Net F(x, c_noise, cond): [B,in_channels,H,W] -> [B,out_channels,H,W] that keeps magnitudes (arXiv 2312.02696).

    Weights are normalised in each pass, and with `forced_weights` overwritten by their normalised values after each
    optimizer step (`after_step`). Attention is at `attn_resolutions` and at the start of the decoder, with heads of at
    least `channels_per_head` channels; levels with fewer have none. `channel_mult_noise` and `channel_mult_emb` are the
    widths of noise features and embedding in `model_channels`, by default those of the first and the widest level.
    Dropout is at sides of at most `dropout_side`, by default at all.

    The defaults are the paper's configuration G. Each of its changes can be undone: `biases`, `constant_channel` (of
    ones beside the image), `embedding_type` "positional", `cosine_attention` (C), `normalised_weights` (D),
    `forced_weights` (E), `group_norm`, `pixel_norm` (F), `unit_functions` (SiLU, sums, concatenations, Fourier
    features; G). `vector` maps names of vector conditions to widths; labels have their balance, others are added.
    `features` as in `SongUNet`.
    """

    map_names = {"labels": "emb_label"}

    uses_all_parameters = takes_channels_last = recordable = True
    feature_layers = (BOTTLENECK,)

    def __init__(
        self,
        img_resolution: int | list[int],
        in_channels: int,
        out_channels: int,
        vector: dict[str, int] | None = None,
        model_channels: int = 192,
        channel_mult: list[int] = (1, 2, 3, 4),
        channel_mult_noise: int | None = None,
        channel_mult_emb: int | None = None,
        num_blocks: int = 3,
        attn_resolutions: list[int] = (16, 8),
        channels_per_head: int = 64,
        dropout: float = 0.0,
        dropout_side: int | None = None,
        label_balance: float = 0.5,
        concat_balance: float = 0.5,
        res_balance: float = 0.3,
        attn_balance: float = 0.3,
        clip_act: float | None = 256.0,
        resample_filter: list[int] = (1, 1),
        embedding_type: str = "fourier",
        constant_channel: bool = True,
        biases: bool = False,
        cosine_attention: bool = True,
        normalised_weights: bool = True,
        forced_weights: bool = True,
        group_norm: bool = False,
        pixel_norm: bool = True,
        unit_functions: bool = True,
        features: list[str] = (),
    ):
        super().__init__(vector)
        plan = ResolutionPlan(img_resolution, channel_mult, model_channels, attn_resolutions, lines=True)
        plan.require_blocks(num_blocks, dropout)
        plan.require("embedding_type", embedding_type, ("fourier", "positional"))
        balances = {"label_balance": label_balance, "concat_balance": concat_balance}
        require_balances({**balances, "res_balance": res_balance, "attn_balance": attn_balance})
        if clip_act is not None and not clip_act > 0:
            raise UserError(f"clip_act={clip_act} must be above 0, or null for no clipping")
        if channels_per_head < 1:
            raise UserError(f"channels_per_head={channels_per_head} must be 1 or more")
        if not sum(resample_filter):
            raise UserError(f"resample_filter={list(resample_filter)} has no sum to divide by; give taps, e.g. [1,1]")
        for name, width in (("channel_mult_noise", channel_mult_noise), ("channel_mult_emb", channel_mult_emb)):
            if width is not None and width < 1:
                raise UserError(f"{name}={width} must be 1 or more, or null for the width of a level")
        self.halvings, self.forced_weights, self.features = plan.halvings, forced_weights, inner_layers(features)
        self.constant_channel, self.channels_per_head = constant_channel, channels_per_head
        self.label_balance, self.concat_balance = label_balance, concat_balance
        self.design = Design(biases, cosine_attention, normalised_weights, group_norm, pixel_norm, unit_functions)
        widths = [one.channels for one in plan.resolutions]
        n_noise = widths[0] if channel_mult_noise is None else model_channels * channel_mult_noise
        n_emb = max(widths) if channel_mult_emb is None else model_channels * channel_mult_emb
        layer = self.design.layer
        self.emb_fourier = (
            FourierFeatures(n_noise, unit_functions)
            if embedding_type == "fourier"
            else PositionalEmbedding(n_noise, endpoint=True)
        )
        self.emb_noise = layer(n_noise, n_emb)
        self.n_noise, self.gains = n_noise, nn.ParameterDict()
        for name in ("labels", "augment", *self.further):
            self.add_map(name, n_emb)
        self.block_options = {
            "taps": list(resample_filter),
            "dropout": dropout,
            "design": self.design,
            "balance": Balance(res_balance, attn_balance, clip_act),
        }
        skips = self._build_encoder(plan, in_channels + constant_channel, n_emb, num_blocks)
        self._build_decoder(plan, n_emb, num_blocks, skips)
        plan.keep_lines(self)
        for blocks in (self.enc, self.dec):
            limit_dropout(blocks, dropout_side)
        self.out_norm = self.design.norm(widths[0])
        self.out_conv = layer(widths[0], out_channels, 3)
        self.out_gain = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for gain in (self.out_gain, *self.gains.values()):
            nn.init.zeros_(gain)

    @property
    def waves(self) -> tuple[nn.Module, int]:
        return self.emb_fourier, self.n_noise

    def add_map(self, name: str, n_out: int, **options) -> None:
        if name not in self.vector:
            return
        number = name in NUMBERS
        self.add_module(self.map_name(name), self.design.layer(self.n_noise if number else self.vector[name], n_out))
        if number:  # a map whose weights have a magnitude cannot start at 0, so its gain does
            self.gains[name] = nn.Parameter(torch.zeros(1))

    def add_mapped(self, emb: Tensor, name: str, cond: Cond, scale: float = 1.0) -> Tensor:
        if name not in self.gains:
            return super().add_mapped(emb, name, cond, scale)
        waves = self.emb_fourier(cond[name].to(emb.dtype).reshape(-1))
        return emb + getattr(self, self.map_name(name))(waves, self.gains[name])

    def _block(self, n_in: int, n_out: int, n_emb: int, decodes: bool, attends: bool = False, **options) -> EDM2Block:
        most = n_out // self.channels_per_head if attends else 0
        heads = next((count for count in range(most, 0, -1) if n_out % count == 0), 0)
        return EDM2Block(n_in, n_out, n_emb, decodes=decodes, heads=heads, **options, **self.block_options)

    def _build_encoder(self, plan: ResolutionPlan, in_channels: int, n_emb: int, num_blocks: int) -> list[int]:
        """Build `enc`; returns the channels of the skip connections, which the decoder takes in reverse order."""
        self.enc = nn.ModuleDict()
        channels, skips = in_channels, []
        for level in plan.resolutions:
            if level.index == 0:
                self.enc[f"{level.name}_conv"] = self.design.layer(channels, level.channels, 3)
                channels = level.channels
            else:
                self.enc[f"{level.name}_down"] = self._block(channels, channels, n_emb, False, resample="down")
            skips.append(channels)
            for index in range(num_blocks):
                block = self._block(channels, level.channels, n_emb, False, level.attention)
                self.enc[f"{level.name}_block{index}"] = block
                channels = level.channels
                skips.append(channels)
        return skips

    def _build_decoder(self, plan: ResolutionPlan, n_emb: int, num_blocks: int, skips: list[int]) -> None:
        self.dec = nn.ModuleDict()
        channels, skips = skips[-1], list(skips)
        for level in reversed(plan.resolutions):
            if level.index == plan.halvings:
                self.dec[f"{level.name}_in0"] = self._block(channels, channels, n_emb, True, True)
                self.dec[f"{level.name}_in1"] = self._block(channels, channels, n_emb, True)
            else:
                self.dec[f"{level.name}_up"] = self._block(channels, channels, n_emb, True, resample="up")
            for index in range(num_blocks + 1):
                block = self._block(channels + skips.pop(), level.channels, n_emb, True, level.attention)
                self.dec[f"{level.name}_block{index}"] = block
                channels = level.channels

    def embed(self, c_noise: Tensor, cond: Cond) -> Tensor:
        """Embed the noise level and the vector conditions, [B, n_emb]."""
        emb = self.emb_noise(self.emb_fourier(c_noise))
        if "labels" in self.vector:
            one_hot = cond["labels"].to(emb.dtype) * math.sqrt(self.vector["labels"])
            kept, added = self.design.shares(self.label_balance)
            emb = torch.add(self.emb_label(one_hot, of_output=added), emb, alpha=kept)
        for name in ("augment", *self.further):
            emb = self.add_mapped(emb, name, cond)
        return F.silu(emb) * self.design.silu_gain

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        emb = self.embed(c_noise, cond).to(x.dtype)
        if self.constant_channel:
            x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        skips = []
        for layer in self.enc.values():
            x = layer(x) if isinstance(layer, UnitLayer) else layer(x, emb)
            skips.append(x)
        found = x
        for name, block in self.dec.items():
            if "_block" in name:
                x = self.design.concat(x, skips.pop(), self.concat_balance)
            x = block(x, emb)
            if name.endswith("_in1"):
                found = x
        x = self.out_norm(x)
        if self.design.group_norm:
            x = F.silu(x) * self.design.silu_gain
        out = self.out_conv(x, self.out_gain)
        return (out, {BOTTLENECK: found}) if self.features else out

    def after_step(self, step: Step) -> None:
        """Force the weights back to rows of magnitude 1, once per optimizer step."""
        if self.forced_weights:
            force_unit_rows(self)


def require_balances(balances: dict[str, float]) -> None:
    """Raise UserError unless each is a fraction."""
    for name, value in balances.items():
        if not 0 <= value <= 1:
            raise UserError(f"{name}={value} must be from 0 to 1: the share of the branch in a sum")
