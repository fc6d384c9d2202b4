"""ADM (Dhariwal & Nichol 2021, arXiv 2105.05233): wide U-Net with adaptive group norm and multi-head attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elucid.training.networks.blocks import ResidualBlock, implicit_mlp_stem
from elucid.training.networks.conditioning import Conditioned
from elucid.training.networks.layers import (
    Conv2d,
    GroupNorm,
    Linear,
    PositionalEmbedding,
    lecun_uniform,
    unit_normal,
    zeros,
)
from elucid.training.networks.resolutions import BOTTLENECK, ResolutionPlan, inner_layers, limit_dropout
from elucid.training.types import Cond


class DhariwalUNet(Conditioned):
    """U-Net F(x, c_noise, cond): [B,in_channels,H,W] -> [B,out_channels,H,W].

    Self-attention at `attn_resolutions`, 64 channels per head; dropout at sides of at most `dropout_side`, by default
    at all. `implicit_mlp`, `vector` and `features` as in `SongUNet`.
    """

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
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: list[int] = (32, 16, 8),
        dropout: float = 0.10,
        dropout_side: int | None = None,
        label_dropout: float = 0.0,
        implicit_mlp: bool = False,
        features: list[str] = (),
    ):
        super().__init__(vector, label_dropout)
        plan = ResolutionPlan(img_resolution, channel_mult, model_channels, attn_resolutions, lines=True)
        plan.require_blocks(num_blocks, dropout)
        self.halvings, self.features = plan.halvings, inner_layers(features)
        n_emb = model_channels * channel_mult_emb
        inits = {"init": lecun_uniform(), "bias_init": lecun_uniform()}
        self.map_noise = PositionalEmbedding(model_channels)
        for name in ("augment", *self.further):
            self.add_map(name, model_channels, bias=False, init=zeros())
        self.map_layer0 = Linear(model_channels, n_emb, **inits)
        self.map_layer1 = Linear(n_emb, n_emb, **inits)
        self.add_map("labels", n_emb, bias=False, init=unit_normal())
        self.block_options = {"adaptive_scale": True, "dropout": dropout, "last_init": zeros(), **inits}
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        skips = self._build_encoder(plan, in_channels, n_emb, num_blocks, implicit_mlp, inits)
        self._build_decoder(plan, n_emb, num_blocks, skips)
        plan.keep_lines(self)
        for blocks in (self.enc, self.dec):
            limit_dropout(blocks, dropout_side)
        self.out_norm = GroupNorm(plan.resolutions[0].channels)
        self.out_conv = Conv2d(plan.resolutions[0].channels, out_channels, 3, init=zeros())

    def _block(self, n_in: int, n_out: int, n_emb: int, attention: bool = False, resample: str | None = None):
        heads = max(n_out // 64, 1) if attention else 0
        return ResidualBlock(n_in, n_out, n_emb, heads=heads, resample=resample, **self.block_options)

    def _build_encoder(self, plan, in_channels, n_emb, num_blocks, implicit_mlp, inits) -> list[int]:
        """Build `enc`; returns the channels of the skip connections, which the decoder takes in reverse order."""
        channels, skips = plan.resolutions[0].channels, []
        for resolution in plan.resolutions:
            if resolution.index == 0:
                stem = implicit_mlp_stem(in_channels, channels, **inits) if implicit_mlp else None
                self.enc[f"{resolution.name}_conv"] = stem or Conv2d(in_channels, channels, 3, **inits)
            else:
                self.enc[f"{resolution.name}_down"] = self._block(channels, channels, n_emb, resample="down")
            skips.append(channels)
            for index in range(num_blocks):
                self.enc[f"{resolution.name}_block{index}"] = self._block(
                    channels, resolution.channels, n_emb, resolution.attention
                )
                channels = resolution.channels
                skips.append(channels)
        return skips

    def _build_decoder(self, plan, n_emb, num_blocks, skips) -> None:
        channels, skips = skips[-1], list(skips)
        self.joins = []  # which decoder blocks take a skip connection
        for resolution in reversed(plan.resolutions):
            if resolution.index == len(plan.resolutions) - 1:
                self.dec[f"{resolution.name}_in0"] = self._block(channels, channels, n_emb, attention=True)
                self.dec[f"{resolution.name}_in1"] = self._block(channels, channels, n_emb)
                self.joins += [False, False]
            else:
                self.dec[f"{resolution.name}_up"] = self._block(channels, channels, n_emb, resample="up")
                self.joins.append(False)
            for index in range(num_blocks + 1):
                block = self._block(channels + skips.pop(), resolution.channels, n_emb, resolution.attention)
                self.dec[f"{resolution.name}_block{index}"] = block
                self.joins.append(True)
                channels = resolution.channels

    @property
    def waves(self) -> tuple[nn.Module, int]:
        return self.map_noise, 2 * len(self.map_noise.frequencies)

    def embed(self, c_noise: Tensor, cond: Cond) -> Tensor:
        """Embed the noise level and the vector conditions, [B, n_emb]."""
        emb = self.map_noise(c_noise)
        for name in ("augment", *self.further):
            emb = self.add_mapped(emb, name, cond)
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        return F.silu(self.add_mapped(emb, "labels", cond))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        emb = self.embed(c_noise, cond).to(x.dtype)
        skips = []
        for layer in self.enc.values():
            x = layer(x, emb) if isinstance(layer, ResidualBlock) else layer(x)
            skips.append(x)
        found = x
        for (name, layer), joins in zip(self.dec.items(), self.joins, strict=True):
            if joins:
                x = torch.cat([x, skips.pop()], dim=1)
            x = layer(x, emb)
            if name.endswith("_in1"):
                found = x
        out = self.out_conv(F.silu(self.out_norm(x)))
        return (out, {BOTTLENECK: found}) if self.features else out
