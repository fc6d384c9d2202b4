"""DDPM++ and NCSN++ (Song et al. 2021, "Score-based generative modeling through SDEs"), with EDM's options."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elucid.training.networks.layers import (
    Conv2d,
    FourierEmbedding,
    GroupNorm,
    Linear,
    PositionalEmbedding,
    Resample,
    ResidualBlock,
    StridedConv2d,
    implicit_mlp_stem,
    xavier_uniform,
)
from elucid.training.networks.levels import LevelPlan
from elucid.training.types import Cond


class SongUNet(nn.Module):
    """U-Net F(x, c_noise, cond): [B,in_channels,H,W] -> [B,out_channels,H,W].

    DDPM++ is positional embedding, standard encoder, filter [1,1]; NCSN++ is fourier, residual, [1,3,3,1]. The encoder
    (standard, skip, residual) says whether a shrunken copy of the input joins each level, the decoder (standard, skip)
    whether each level adds its own picture to the output. `implicit_mlp` puts three 1x1 convolutions before the first
    3x3 (Wang et al. 2023). Reads cond["labels"] [B,label_dim] and cond["augment"] [B,augment_dim].
    """

    def __init__(
        self,
        img_resolution: int | list[int],
        in_channels: int,
        out_channels: int,
        label_dim: int = 0,
        augment_dim: int = 0,
        model_channels: int = 128,
        channel_mult: list[int] = (1, 2, 2, 2),
        channel_mult_emb: int = 4,
        num_blocks: int = 4,
        attn_resolutions: list[int] = (16,),
        dropout: float = 0.10,
        label_dropout: float = 0.0,
        embedding_type: str = "positional",
        channel_mult_noise: int = 1,
        encoder_type: str = "standard",
        decoder_type: str = "standard",
        resample_filter: list[int] = (1, 1),
        implicit_mlp: bool = False,
    ):
        super().__init__()
        plan = LevelPlan(img_resolution, channel_mult, model_channels, attn_resolutions)
        plan.require_blocks(num_blocks, dropout)
        plan.require("embedding_type", embedding_type, ("positional", "fourier"))
        plan.require("encoder_type", encoder_type, ("standard", "skip", "residual"))
        plan.require("decoder_type", decoder_type, ("standard", "skip"))
        self.halvings = plan.halvings
        self.label_dropout, self.decoder_type = label_dropout, decoder_type
        n_noise, n_emb = model_channels * channel_mult_noise, model_channels * channel_mult_emb
        self.map_noise = (
            PositionalEmbedding(n_noise, endpoint=True, sin_first=True)
            if embedding_type == "positional"
            else FourierEmbedding(n_noise)
        )
        self.map_label = Linear(label_dim, n_noise) if label_dim else None
        self.map_augment = Linear(augment_dim, n_noise, bias=False) if augment_dim else None
        self.map_layer0 = Linear(n_noise, n_emb)
        self.map_layer1 = Linear(n_emb, n_emb)

        self.block_options = {
            "skip_scale": math.sqrt(0.5),
            "eps": 1e-6,
            "dropout": dropout,
            "taps": list(resample_filter),
            "project_skip": True,
            "last_init": xavier_uniform(1e-5),
            "qkv_init": xavier_uniform(math.sqrt(0.2)),
        }
        skips = self._build_encoder(plan, in_channels, n_emb, num_blocks, encoder_type, implicit_mlp)
        self._build_decoder(plan, out_channels, n_emb, num_blocks, skips)

    def _build_encoder(self, plan, in_channels, n_emb, num_blocks, encoder_type, implicit_mlp) -> list[int]:
        """Fill `enc`; returns the channels of its outputs in order, which the decoder takes from the end."""
        self.enc = nn.ModuleDict()
        channels, aux_channels = plan.model_channels, in_channels
        taps = self.block_options["taps"]
        skips = []
        for level in plan.levels:
            if level.index == 0:
                self.enc[f"{level.name}_conv"] = (
                    implicit_mlp_stem(in_channels, channels) if implicit_mlp else Conv2d(in_channels, channels, 3)
                )
            else:
                down = ResidualBlock(channels, channels, n_emb, resample="down", **self.block_options)
                self.enc[f"{level.name}_down"] = down
                if encoder_type == "skip":
                    self.enc[f"{level.name}_aux_down"] = Resample("down", taps)
                    self.enc[f"{level.name}_aux_skip"] = Conv2d(aux_channels, channels, 1)
                elif encoder_type == "residual":
                    self.enc[f"{level.name}_aux_residual"] = StridedConv2d(aux_channels, channels, taps)
                    aux_channels = channels
            skips.append(channels)
            for index in range(num_blocks):
                block = ResidualBlock(channels, level.channels, n_emb, heads=int(level.attention), **self.block_options)
                self.enc[f"{level.name}_block{index}"] = block
                channels = level.channels
                skips.append(channels)
        return skips

    def _build_decoder(self, plan, out_channels, n_emb, num_blocks, skips) -> None:
        self.dec = nn.ModuleDict()
        taps = self.block_options["taps"]
        channels = skips[-1]
        skips = list(skips)
        for level in reversed(plan.levels):
            deepest = level.index == len(plan.levels) - 1
            if deepest:
                self.dec[f"{level.name}_in0"] = ResidualBlock(channels, channels, n_emb, heads=1, **self.block_options)
                self.dec[f"{level.name}_in1"] = ResidualBlock(channels, channels, n_emb, **self.block_options)
            else:
                up = ResidualBlock(channels, channels, n_emb, resample="up", **self.block_options)
                self.dec[f"{level.name}_up"] = up
            for index in range(num_blocks + 1):
                attention = level.attention and index == num_blocks
                block = ResidualBlock(
                    channels + skips.pop(), level.channels, n_emb, heads=int(attention), **self.block_options
                )
                self.dec[f"{level.name}_block{index}"] = block
                channels = level.channels
            if self.decoder_type == "skip" or level.index == 0:
                if self.decoder_type == "skip" and not deepest:
                    self.dec[f"{level.name}_aux_up"] = Resample("up", taps)
                self.dec[f"{level.name}_aux_norm"] = GroupNorm(channels, 1e-6)
                self.dec[f"{level.name}_aux_conv"] = Conv2d(channels, out_channels, 3, init=xavier_uniform(1e-5))

    def embed(self, c_noise: Tensor, cond: Cond) -> Tensor:
        """Embedding of the noise level and of all that conditions globally, [B, n_emb]."""
        emb = self.map_noise(c_noise)
        if self.map_label is not None:
            labels = cond["labels"].to(emb.dtype)
            if self.training and self.label_dropout:
                keep = torch.rand(labels.shape[0], 1, device=labels.device) >= self.label_dropout
                labels = labels * keep.to(labels.dtype)
            emb = emb + self.map_label(labels * math.sqrt(labels.shape[1]))
        if self.map_augment is not None and "augment" in cond:
            emb = emb + self.map_augment(cond["augment"].to(emb.dtype))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        emb = self.embed(c_noise, cond).to(x.dtype)
        skips, aux = [], x
        for name, layer in self.enc.items():
            if "aux_down" in name:
                aux = layer(aux)
            elif "aux_skip" in name:
                x = skips[-1] = x + layer(aux)
            elif "aux_residual" in name:
                x = skips[-1] = aux = (x + layer(aux)) * math.sqrt(0.5)
            else:
                x = layer(x, emb) if isinstance(layer, ResidualBlock) else layer(x)
                skips.append(x)
        out, normed = None, None
        for name, layer in self.dec.items():
            if "aux_up" in name:
                out = layer(out)
            elif "aux_norm" in name:
                normed = layer(x)
            elif "aux_conv" in name:
                picture = layer(F.silu(normed))
                out = picture if out is None else out + picture
            else:
                if "block" in name:
                    x = torch.cat([x, skips.pop()], dim=1)
                x = layer(x, emb)
        return out
