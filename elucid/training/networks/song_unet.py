"""DDPM++ and NCSN++ (Song et al. 2021, "Score-based generative modeling through SDEs"), with EDM's options."""

import math
from enum import Enum, auto

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elucid.training.networks.blocks import ResidualBlock, implicit_mlp_stem
from elucid.training.networks.conditioning import Conditioned
from elucid.training.networks.layers import (
    Conv2d,
    FourierEmbedding,
    GroupNorm,
    Linear,
    PositionalEmbedding,
    Resample,
    StridedConv2d,
    xavier_uniform,
)
from elucid.training.networks.resolutions import BOTTLENECK, ResolutionPlan, inner_layers
from elucid.training.types import Cond


class Role(Enum):
    """What a layer does in the encoder or decoder."""

    STEM = auto()  # the first convolution
    BLOCK = auto()  # x -> block(x, emb)
    DOWNSAMPLE_INPUT = auto()  # downsamples the copy of the input
    ADD_INPUT = auto()  # adds that copy to x
    ADD_INPUT_AND_KEEP = auto()  # adds that copy to x; the sum becomes the new copy
    CONCAT_SKIP = auto()  # concatenates a skip connection to x, then as BLOCK
    UPSAMPLE_OUTPUT = auto()  # upsamples the output image to the next resolution
    NORM_FOR_OUTPUT = auto()  # normalises x for the output image
    ADD_TO_OUTPUT = auto()  # adds the contribution of this resolution to the output image


class SongUNet(Conditioned):
    """U-Net F(x, c_noise, cond): [B,in_channels,H,W] -> [B,out_channels,H,W].

    DDPM++ has a positional embedding, standard encoder and filter [1,1]; NCSN++ has fourier, residual and [1,3,3,1].
    With a skip or residual encoder, each resolution also takes a downsampled copy of the input; with a skip decoder,
    each resolution adds its own contribution to the output image. `implicit_mlp` puts three 1x1 convolutions before the
    first 3x3 (Wang et al. 2023). `vector` maps names of vector conditions to widths. With `features` ["bottleneck"] the
    output of the two blocks between encoder and decoder [B,D,h,w] is returned beside its own, in a dict.
    """

    uses_all_parameters = takes_channels_last = recordable = True
    feature_layers = (BOTTLENECK,)

    def __init__(
        self,
        img_resolution: int | list[int],
        in_channels: int,
        out_channels: int,
        vector: dict[str, int] | None = None,
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
        features: list[str] = (),
    ):
        super().__init__(vector, label_dropout)
        plan = ResolutionPlan(img_resolution, channel_mult, model_channels, attn_resolutions, lines=True)
        plan.require_blocks(num_blocks, dropout)
        plan.require("embedding_type", embedding_type, ("positional", "fourier"))
        plan.require("encoder_type", encoder_type, ("standard", "skip", "residual"))
        plan.require("decoder_type", decoder_type, ("standard", "skip"))
        self.halvings, self.features = plan.halvings, inner_layers(features)
        self.decoder_type = decoder_type
        n_noise, n_emb = model_channels * channel_mult_noise, model_channels * channel_mult_emb
        self.map_noise = (
            PositionalEmbedding(n_noise, endpoint=True, sin_first=True)
            if embedding_type == "positional"
            else FourierEmbedding(n_noise)
        )
        self.n_noise = n_noise
        self.add_map("labels", n_noise)
        for name in ("augment", *self.further):
            self.add_map(name, n_noise, bias=False)
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
        plan.keep_lines(self)

    def _build_encoder(self, plan, in_channels, n_emb, num_blocks, encoder_type, implicit_mlp) -> list[int]:
        """Build `enc`; returns the channels of the skip connections, which the decoder takes in reverse order."""
        self.enc, self.enc_roles = nn.ModuleDict(), []
        channels, aux_channels = plan.model_channels, in_channels
        taps = self.block_options["taps"]
        skips = []
        for resolution in plan.resolutions:
            if resolution.index == 0:
                stem = implicit_mlp_stem(in_channels, channels) if implicit_mlp else Conv2d(in_channels, channels, 3)
                self._encode(f"{resolution.name}_conv", stem, Role.STEM)
            else:
                down = ResidualBlock(channels, channels, n_emb, resample="down", **self.block_options)
                self._encode(f"{resolution.name}_down", down, Role.BLOCK)
                if encoder_type == "skip":
                    self._encode(f"{resolution.name}_aux_down", Resample("down", taps), Role.DOWNSAMPLE_INPUT)
                    self._encode(f"{resolution.name}_aux_skip", Conv2d(aux_channels, channels, 1), Role.ADD_INPUT)
                elif encoder_type == "residual":
                    strided = StridedConv2d(aux_channels, channels, taps)
                    self._encode(f"{resolution.name}_aux_residual", strided, Role.ADD_INPUT_AND_KEEP)
                    aux_channels = channels
            skips.append(channels)
            for index in range(num_blocks):
                block = ResidualBlock(
                    channels, resolution.channels, n_emb, heads=int(resolution.attention), **self.block_options
                )
                self._encode(f"{resolution.name}_block{index}", block, Role.BLOCK)
                channels = resolution.channels
                skips.append(channels)
        return skips

    def _build_decoder(self, plan, out_channels, n_emb, num_blocks, skips) -> None:
        self.dec, self.dec_roles = nn.ModuleDict(), []
        taps = self.block_options["taps"]
        channels = skips[-1]
        skips = list(skips)
        for resolution in reversed(plan.resolutions):
            deepest = resolution.index == len(plan.resolutions) - 1
            if deepest:
                for index, heads in enumerate((1, 0)):
                    block = ResidualBlock(channels, channels, n_emb, heads=heads, **self.block_options)
                    self._decode(f"{resolution.name}_in{index}", block, Role.BLOCK)
            else:
                up = ResidualBlock(channels, channels, n_emb, resample="up", **self.block_options)
                self._decode(f"{resolution.name}_up", up, Role.BLOCK)
            for index in range(num_blocks + 1):
                attention = resolution.attention and index == num_blocks
                block = ResidualBlock(
                    channels + skips.pop(), resolution.channels, n_emb, heads=int(attention), **self.block_options
                )
                self._decode(f"{resolution.name}_block{index}", block, Role.CONCAT_SKIP)
                channels = resolution.channels
            if self.decoder_type == "skip" or resolution.index == 0:
                if self.decoder_type == "skip" and not deepest:
                    self._decode(f"{resolution.name}_aux_up", Resample("up", taps), Role.UPSAMPLE_OUTPUT)
                self._decode(f"{resolution.name}_aux_norm", GroupNorm(channels, 1e-6), Role.NORM_FOR_OUTPUT)
                last = Conv2d(channels, out_channels, 3, init=xavier_uniform(1e-5))
                self._decode(f"{resolution.name}_aux_conv", last, Role.ADD_TO_OUTPUT)

    def _encode(self, name: str, layer: nn.Module, role: Role) -> None:
        self.enc[name] = layer
        self.enc_roles.append(role)

    def _decode(self, name: str, layer: nn.Module, role: Role) -> None:
        self.dec[name] = layer
        self.dec_roles.append(role)

    @property
    def waves(self) -> tuple[nn.Module, int]:
        return self.map_noise, self.n_noise

    def embed(self, c_noise: Tensor, cond: Cond) -> Tensor:
        """Embed the noise level and the vector conditions, [B, n_emb]."""
        emb = self.map_noise(c_noise)
        emb = self.add_mapped(emb, "labels", cond, math.sqrt(self.vector.get("labels", 1)))
        for name in ("augment", *self.further):
            emb = self.add_mapped(emb, name, cond)
        return F.silu(self.map_layer1(F.silu(self.map_layer0(emb))))

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        emb = self.embed(c_noise, cond).to(x.dtype)
        skips, aux = [], x
        for role, layer in zip(self.enc_roles, self.enc.values(), strict=True):
            if role is Role.DOWNSAMPLE_INPUT:
                aux = layer(aux)
            elif role is Role.ADD_INPUT:
                x = skips[-1] = x + layer(aux)
            elif role is Role.ADD_INPUT_AND_KEEP:
                x = skips[-1] = aux = (x + layer(aux)) * math.sqrt(0.5)
            else:
                x = layer(x, emb) if role is Role.BLOCK else layer(x)
                skips.append(x)
        out, normed, found = None, None, x
        for role, layer in zip(self.dec_roles, self.dec.values(), strict=True):
            if role is Role.UPSAMPLE_OUTPUT:
                out = layer(out)
            elif role is Role.NORM_FOR_OUTPUT:
                normed = layer(x)
            elif role is Role.ADD_TO_OUTPUT:
                picture = layer(F.silu(normed))
                out = picture if out is None else out + picture
            else:
                if role is Role.CONCAT_SKIP:
                    x = torch.cat([x, skips.pop()], dim=1)
                x = layer(x, emb)
                if role is Role.BLOCK and x.shape[2:] == found.shape[2:]:  # between encoder and decoder
                    found = x
        return (out, {BOTTLENECK: found}) if self.features else out
