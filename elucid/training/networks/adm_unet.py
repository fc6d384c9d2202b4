"""ADM (Dhariwal & Nichol 2021, arXiv 2105.05233): wide U-Net with adaptive group normalisation and many heads."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elucid.training.networks.layers import (
    Conv2d,
    GroupNorm,
    Linear,
    PositionalEmbedding,
    ResidualBlock,
    implicit_mlp_stem,
    lecun_uniform,
    zeros,
)
from elucid.training.networks.levels import LevelPlan
from elucid.training.types import Cond


class DhariwalUNet(nn.Module):
    """U-Net F(x, c_noise, cond): [B,in_channels,H,W] -> [B,out_channels,H,W].

    Attention wherever the resolution is listed, 64 channels per head; `implicit_mlp` as in `SongUNet`. Reads
    cond["labels"] [B,label_dim] and cond["augment"] [B,augment_dim].
    """

    def __init__(
        self,
        img_resolution: int | list[int],
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 192,
        channel_mult: list[int] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 3,
        attn_resolutions: list[int] = (32, 16, 8),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        implicit_mlp: bool = False,
    ):
        super().__init__()
        plan = LevelPlan(img_resolution, channel_mult, model_channels, attn_resolutions)
        plan.require_blocks(num_blocks, dropout)
        self.halvings = plan.halvings
        self.label_dropout = label_dropout
        n_emb = model_channels * channel_mult_emb
        inits = {"init": lecun_uniform(), "bias_init": lecun_uniform()}
        self.map_noise = PositionalEmbedding(model_channels)
        self.map_augment = Linear(augment_dim, model_channels, bias=False, init=zeros()) if augment_dim else None
        self.map_layer0 = Linear(model_channels, n_emb, **inits)
        self.map_layer1 = Linear(n_emb, n_emb, **inits)
        # A one-hot label picks one row, so its fan-in is 1 whatever the number of classes.
        unit_normal = lambda shape, fan_in, fan_out: torch.randn(shape)  # noqa: E731
        self.map_label = Linear(label_dim, n_emb, bias=False, init=unit_normal) if label_dim else None
        self.block_options = {"adaptive_scale": True, "dropout": dropout, "last_init": zeros(), **inits}
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        skips = self._build_encoder(plan, in_channels, n_emb, num_blocks, implicit_mlp, inits)
        self._build_decoder(plan, n_emb, num_blocks, skips)
        self.out_norm = GroupNorm(plan.levels[0].channels)
        self.out_conv = Conv2d(plan.levels[0].channels, out_channels, 3, init=zeros())

    def _block(self, n_in: int, n_out: int, n_emb: int, attention: bool = False, resample: str | None = None):
        heads = max(n_out // 64, 1) if attention else 0
        return ResidualBlock(n_in, n_out, n_emb, heads=heads, resample=resample, **self.block_options)

    def _build_encoder(self, plan, in_channels, n_emb, num_blocks, implicit_mlp, inits) -> list[int]:
        """Fill `enc`; returns the channels of its outputs in order, which the decoder takes from the end."""
        channels, skips = plan.levels[0].channels, []
        for level in plan.levels:
            if level.index == 0:
                stem = implicit_mlp_stem(in_channels, channels, **inits) if implicit_mlp else None
                self.enc[f"{level.name}_conv"] = stem or Conv2d(in_channels, channels, 3, **inits)
            else:
                self.enc[f"{level.name}_down"] = self._block(channels, channels, n_emb, resample="down")
            skips.append(channels)
            for index in range(num_blocks):
                self.enc[f"{level.name}_block{index}"] = self._block(channels, level.channels, n_emb, level.attention)
                channels = level.channels
                skips.append(channels)
        return skips

    def _build_decoder(self, plan, n_emb, num_blocks, skips) -> None:
        channels, skips = skips[-1], list(skips)
        for level in reversed(plan.levels):
            if level.index == len(plan.levels) - 1:
                self.dec[f"{level.name}_in0"] = self._block(channels, channels, n_emb, attention=True)
                self.dec[f"{level.name}_in1"] = self._block(channels, channels, n_emb)
            else:
                self.dec[f"{level.name}_up"] = self._block(channels, channels, n_emb, resample="up")
            for index in range(num_blocks + 1):
                block = self._block(channels + skips.pop(), level.channels, n_emb, level.attention)
                self.dec[f"{level.name}_block{index}"] = block
                channels = level.channels

    def embed(self, c_noise: Tensor, cond: Cond) -> Tensor:
        """Embedding of the noise level and of all that conditions globally, [B, n_emb]."""
        emb = self.map_noise(c_noise)
        if self.map_augment is not None and "augment" in cond:
            emb = emb + self.map_augment(cond["augment"].to(emb.dtype))
        emb = self.map_layer1(F.silu(self.map_layer0(emb)))
        if self.map_label is not None:
            labels = cond["labels"].to(emb.dtype)
            if self.training and self.label_dropout:
                keep = torch.rand(labels.shape[0], 1, device=labels.device) >= self.label_dropout
                labels = labels * keep.to(labels.dtype)
            emb = emb + self.map_label(labels)
        return F.silu(emb)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        emb = self.embed(c_noise, cond).to(x.dtype)
        skips = []
        for layer in self.enc.values():
            x = layer(x, emb) if isinstance(layer, ResidualBlock) else layer(x)
            skips.append(x)
        for name, layer in self.dec.items():
            if "block" in name:
                x = torch.cat([x, skips.pop()], dim=1)
            x = layer(x, emb)
        return self.out_conv(F.silu(self.out_norm(x)))
