"""ADM (Dhariwal & Nichol 2021, arXiv 2105.05233), under the parameter names of the public checkpoints.

With other options it is the network of DDPM (Ho et al. 2020) and of improved DDPM (Nichol & Dhariwal 2021).
"""

import torch
from torch import Tensor, nn

from elucid.training.networks.adm_layers import (
    INITS,
    Block,
    ClassTable,
    Doubled,
    Downsample,
    Halved,
    SelfAttention,
    Stage,
    Style,
    Upsample,
    group_norm,
)
from elucid.training.networks.blocks import implicit_mlp_stem
from elucid.training.networks.conditioning import Conditioned
from elucid.training.networks.layers import Conv2d, Linear, PositionalEmbedding, Resample, zeros
from elucid.training.networks.resolutions import BOTTLENECK, ResolutionPlan, inner_layers
from elucid.training.types import Cond


class ADMHalf(Conditioned):
    """What the U-Net and the classifier share: the embedding, the encoder `input_blocks` and the `middle_block`."""

    map_names = {"labels": "label_emb"}

    def __init__(
        self,
        plan: ResolutionPlan,
        in_channels: int,
        vector: dict[str, int] | None,
        label_dropout: float,
        num_blocks: int,
        channel_mult_emb: int,
        implicit_mlp: bool,
        style: Style,
    ):
        super().__init__(vector, label_dropout)
        plan.require_blocks(num_blocks, style.dropout)
        self.halvings, self.style = plan.halvings, style
        self.n_emb = plan.model_channels * channel_mult_emb
        self.map_noise = PositionalEmbedding(plan.model_channels)
        for name in ("augment", *self.further):
            self.add_map(name, plan.model_channels, bias=False, init=zeros())
        linear = Linear(plan.model_channels, self.n_emb, **INITS)
        self.time_embed = nn.Sequential(linear, style.act(), Linear(self.n_emb, self.n_emb, **INITS))
        if "labels" in self.vector:
            self.label_emb = ClassTable(self.vector["labels"], self.n_emb)
        self._build_encoder(plan, in_channels, num_blocks, implicit_mlp)
        channels = plan.resolutions[-1].channels
        layers = self._block(channels, channels), self._attention(channels), self._block(channels, channels)
        self.middle_block = Stage(*layers)

    def _block(self, n_in: int, n_out: int, resample: Resample | None = None) -> Block:
        return Block(n_in, n_out, self.n_emb, self.style, resample)

    def _attention(self, channels: int, num_heads: int | None = None) -> SelfAttention:
        return SelfAttention(channels, self.style.heads(channels, num_heads), self.style)

    def _build_encoder(self, plan: ResolutionPlan, in_channels: int, num_blocks: int, implicit_mlp: bool) -> None:
        """Build `input_blocks`, and list the channels of their outputs, the skip connections, in `skips`."""
        channels = plan.resolutions[0].channels
        stem = implicit_mlp_stem if implicit_mlp else _first_convolution
        self.input_blocks, self.skips = nn.ModuleList([Stage(stem(in_channels, channels, **INITS))]), [channels]
        for resolution in plan.resolutions:
            if resolution.index:
                self.input_blocks.append(Stage(self._halving(channels)))
                self.skips.append(channels)
            for _ in range(num_blocks):
                block = self._block(channels, resolution.channels)
                channels = resolution.channels
                self.input_blocks.append(Stage(block, *([self._attention(channels)] if resolution.attention else [])))
                self.skips.append(channels)

    def _halving(self, channels: int) -> nn.Module:
        if self.style.resblock_updown:
            return self._block(channels, channels, Halved())
        return Downsample(channels, self.style.conv_resample)

    @property
    def waves(self) -> tuple[nn.Module, int]:
        return self.map_noise, 2 * len(self.map_noise.frequencies)

    def embed(self, c_noise: Tensor, cond: Cond) -> Tensor:
        """Embed the noise level and the vector conditions, [B, n_emb]."""
        emb = self.map_noise(c_noise)
        for name in ("augment", *self.further):
            emb = self.add_mapped(emb, name, cond)
        return self.add_mapped(self.time_embed(emb), "labels", cond)

    def encode(self, x: Tensor, emb: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the output of the middle block, and those of `input_blocks`."""
        skips = []
        for stage in self.input_blocks:
            x = stage(x, emb)
            skips.append(x)
        return self.middle_block(x, emb), skips


def _first_convolution(n_in: int, n_out: int, **inits) -> Conv2d:
    return Conv2d(n_in, n_out, 3, **inits)


class ADMUNet(ADMHalf):
    """U-Net F(x, c_noise, cond): [B,in_channels,H,W] -> [B,out_channels,H,W]; c_noise is a time step, 0..1000.

    Self-attention at the sides `attn_resolutions`, with `num_heads` heads (`num_heads_upsample` in the decoder) or
    `channels_per_head`; `new_attention_order` groups the channels of queries, keys and values by kind, not by head.
    Resolutions are joined by residual blocks (`resblock_updown`), or by resampling, with a convolution
    (`conv_resample`) or without. The embedding scales and shifts (`scale_shift_norm`) or is added. `skip_rescale`
    multiplies residual sums by 1/sqrt(2). `activation` is silu, gelu or relu. `checkpoint` recomputes blocks in the
    backward pass, which saves memory. `implicit_mlp`, `vector` and `features` (the output of `middle_block`) as in
    `SongUNet`. Raises UserError if an option does not fit.
    """

    uses_all_parameters = recordable = True
    feature_layers = (BOTTLENECK,)

    def __init__(
        self,
        img_resolution: int | list[int],
        in_channels: int,
        out_channels: int,
        vector: dict[str, int] | None = None,
        model_channels: int = 192,
        channel_mult: list[float] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: list[int] = (32, 16, 8),
        num_heads: int | None = None,
        channels_per_head: int = 64,
        num_heads_upsample: int | None = None,
        resblock_updown: bool = True,
        conv_resample: bool = True,
        scale_shift_norm: bool = True,
        skip_rescale: bool = False,
        activation: str = "silu",
        new_attention_order: bool = False,
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        implicit_mlp: bool = False,
        checkpoint: bool = False,
        features: list[str] = (),
    ):
        style = Style(
            num_heads, channels_per_head, resblock_updown, conv_resample, scale_shift_norm, skip_rescale, activation,
            new_attention_order, dropout, checkpoint,
        )  # fmt: skip
        plan = ResolutionPlan(img_resolution, channel_mult, model_channels, attn_resolutions)
        super().__init__(plan, in_channels, vector, label_dropout, num_blocks, channel_mult_emb, implicit_mlp, style)
        self.features = inner_layers(features)
        self._build_decoder(plan, num_blocks, num_heads_upsample)
        channels = plan.resolutions[0].channels
        self.out = nn.Sequential(group_norm(channels), style.act(), Conv2d(channels, out_channels, 3, init=zeros()))

    def _build_decoder(self, plan: ResolutionPlan, num_blocks: int, num_heads: int | None) -> None:
        skips, channels = list(self.skips), plan.resolutions[-1].channels
        self.output_blocks = nn.ModuleList()
        for resolution in reversed(plan.resolutions):
            for index in range(num_blocks + 1):
                layers: list[nn.Module] = [self._block(channels + skips.pop(), resolution.channels)]
                channels = resolution.channels
                if resolution.attention:
                    layers.append(self._attention(channels, num_heads))
                if resolution.index and index == num_blocks:
                    layers.append(self._doubling(channels))
                self.output_blocks.append(Stage(*layers))

    def _doubling(self, channels: int) -> nn.Module:
        if self.style.resblock_updown:
            return self._block(channels, channels, Doubled())
        return Upsample(channels, self.style.conv_resample)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        emb = self.embed(c_noise, cond).to(x.dtype)
        middle, skips = self.encode(x, emb)
        x = middle
        for stage in self.output_blocks:
            x = stage(torch.cat([x, skips.pop()], dim=1), emb)
        return (self.out(x), {BOTTLENECK: middle}) if self.features else self.out(x)
