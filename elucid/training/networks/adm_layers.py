"""Layers of the ADM U-Net and its classifier (Dhariwal & Nichol 2021), under the names of the public checkpoints."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from elucid.dnnlib.errors import UserError
from elucid.training.networks.attention import attention, forward_derivatives_active
from elucid.training.networks.kernels.dropout import Dropout
from elucid.training.networks.kernels.fused_norm import norm_silu
from elucid.training.networks.kernels.fused_residual import FusedResidual
from elucid.training.networks.kernels.rows import runs_fused
from elucid.training.networks.layers import (
    Conv2d,
    GroupNorm,
    Init,
    Linear,
    Resample,
    Weighted,
    lecun_uniform,
    unit_normal,
    zeros,
)

ACTIVATIONS = {"silu": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU}
INITS: dict[str, Init] = {"init": lecun_uniform(), "bias_init": lecun_uniform()}
"""Initial values of all layers but the last of each residual branch, which are zero."""


@dataclass(frozen=True)
class Style:
    """Options that all blocks of a network share; see `ADMUNet` for their meaning."""

    num_heads: int | None = None
    channels_per_head: int = 64
    resblock_updown: bool = True
    conv_resample: bool = True
    scale_shift_norm: bool = True
    skip_rescale: bool = False
    activation: str = "silu"
    new_attention_order: bool = False
    dropout: float = 0.0
    checkpoint: bool = False

    def __post_init__(self):
        if self.activation not in ACTIVATIONS:
            raise UserError(f"activation={self.activation!r} is unknown; choose from {', '.join(ACTIVATIONS)}")

    def act(self) -> nn.Module:
        """Return a new activation layer."""
        return ACTIVATIONS[self.activation]()

    def heads(self, channels: int, num_heads: int | None = None) -> int:
        """Return the number of heads for this width. Raises UserError if they would not all be equally wide."""
        num_heads = num_heads or self.num_heads
        heads = num_heads or max(channels // max(self.channels_per_head, 1), 1)
        if heads < 1 or channels % heads or (num_heads is None and heads > 1 and channels % self.channels_per_head):
            asked = f"num_heads={num_heads}" if num_heads else f"channels_per_head={self.channels_per_head}"
            raise UserError(f"attention over {channels} channels cannot have {asked}; give a divisor of {channels}")
        return heads

    def run(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Return function(*inputs), computed again in the backward pass instead of stored with `checkpoint`."""
        if self.checkpoint and torch.is_grad_enabled() and not forward_derivatives_active():
            return checkpoint(function, *inputs, use_reentrant=False)
        return function(*inputs)

    @property
    def scale(self) -> float:
        """The factor of residual sums."""
        return math.sqrt(0.5) if self.skip_rescale else 1.0

    def join(self, skip: Tensor, branch: Tensor) -> Tensor:
        """Return the residual sum, times 1/sqrt(2) with `skip_rescale` (Song et al. 2021)."""
        return (skip + branch) * self.scale if self.skip_rescale else skip + branch


def group_norm(channels: int) -> GroupNorm:
    """Return a group normalisation with 32 groups, or the largest power of two that divides narrower layers."""
    norm = GroupNorm(channels)
    norm.groups = math.gcd(32, channels)
    return norm


class Pointwise(Weighted):
    """Linear map of the channels at each position, [B,n_in,N] -> [B,n_out,N]; its weight is [n_out,n_in,1]."""

    casts_weights = True

    def __init__(self, n_in: int, n_out: int, init: Init | None = None, bias_init: Init | None = None):
        super().__init__((n_out, n_in, 1), (n_in, n_out), True, init or lecun_uniform(), bias_init or lecun_uniform())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class ClassTable(Weighted):
    """One row per class, [B,classes] one-hot -> [B,n_out]; no class, an all-zero label, gives zeros."""

    casts_weights = True

    def __init__(self, classes: int, n_out: int):
        super().__init__((classes, n_out), (1, n_out), False, unit_normal(), zeros())

    def forward(self, labels: Tensor) -> Tensor:
        return labels @ self.weight.to(labels.dtype)


class Block(nn.Module):
    """Residual block conditioned on an embedding, x [B,n_in,H,W], emb [B,n_emb] -> [B,n_out,H',W'].

    h = conv(act(norm(x))); h = norm(h) (1 + scale) + shift, or norm(h + shift) without `scale_shift_norm`; the block
    returns skip(x) + conv(dropout(act(h))). `resample` resamples x in both branches (Brock et al. 2019).
    """

    def __init__(self, n_in: int, n_out: int, n_emb: int, style: Style, resample: Resample | None = None):
        super().__init__()
        self.style = style
        first = Conv2d(n_in, n_out, 3, **INITS)
        first.resample = resample
        self.in_layers = nn.Sequential(group_norm(n_in), style.act(), first)
        n_condition = n_out * (2 if style.scale_shift_norm else 1)
        self.emb_layers = nn.Sequential(style.act(), Linear(n_emb, n_condition, **INITS))
        last = Conv2d(n_out, n_out, 3, init=zeros())
        self.out_layers = nn.Sequential(group_norm(n_out), style.act(), Dropout(style.dropout), last)
        self.skip_connection = Conv2d(n_in, n_out, 1, **INITS) if n_in != n_out else nn.Identity()
        self.resample = resample or nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.style.run(self._forward, x, emb)

    def _forward(self, x: Tensor, emb: Tensor) -> Tensor:
        first, (dropout, last), skip = self.in_layers[2], self.out_layers[2:], self.skip_connection
        fused = self.in_layers[0].fused and self.style.activation == "silu" and runs_fused(x)
        # The biases of convolutions are added where their sums are read anyway.
        how = {"biased": False} if fused else {}
        h = first(self._norm_act(self.in_layers, x), **how)
        before = first.bias.to(x.dtype) if fused else None
        condition = self.emb_layers(emb)[:, :, None, None]
        if self.style.scale_shift_norm:
            h = self._norm_act(self.out_layers, h, None, *condition.chunk(2, dim=1), before=before)
        else:
            h = self._norm_act(self.out_layers, h, condition, before=before)
        x, h = self.resample(x), dropout(h)
        if not fused:
            return self.style.join(skip(x), last(h))
        narrow = isinstance(skip, nn.Identity)
        bias = last.bias.to(x.dtype) if narrow else last.bias.to(x.dtype) + skip.bias.to(x.dtype)
        return FusedResidual.apply(
            x if narrow else skip(x, biased=False), last(h, biased=False), bias, self.style.scale
        )

    def _norm_act(self, layers: nn.Sequential, x: Tensor, added=None, scale=None, shift=None, before=None) -> Tensor:
        """Apply the first two layers, with what is added before or scales and shifts in between."""
        norm, act = layers[0], layers[1]
        if norm.fused and self.style.activation == "silu":
            return norm_silu(norm, x, added, scale, shift, before)
        h = norm(x if added is None else x + added)
        return act(h if scale is None else torch.addcmul(shift, h, scale + 1))


def split_heads(qkv: Tensor, heads: int, grouped: bool) -> tuple[Tensor, ...]:
    """Split [B,3C,N] into queries, keys, values [B,heads,N,C/heads].

    `grouped` is the new attention order, all queries first, then keys, then values; the old one has q, k, v per head.
    """
    batch, channels, length = qkv.shape
    shape = (batch, 3, heads, -1, length) if grouped else (batch, heads, 3, -1, length)
    return tuple(one.transpose(2, 3).contiguous() for one in qkv.reshape(shape).unbind(1 if grouped else 2))


class SelfAttention(nn.Module):
    """Residual multi-head self-attention over the H*W positions, [B,C,H,W] -> [B,C,H,W]."""

    def __init__(self, channels: int, heads: int, style: Style):
        super().__init__()
        self.heads, self.style = heads, style
        self.norm = group_norm(channels)
        self.qkv = Pointwise(channels, 3 * channels)
        self.proj_out = Pointwise(channels, channels, zeros(), zeros())

    def forward(self, x: Tensor) -> Tensor:
        return self.style.run(self._forward, x)

    def _forward(self, x: Tensor) -> Tensor:
        flat = self.norm(x).flatten(2)
        mixed = attention(*split_heads(self.qkv(flat), self.heads, self.style.new_attention_order))
        return self.style.join(x, self.proj_out(mixed.transpose(2, 3).reshape(flat.shape)).reshape(x.shape))


class Halved(Resample):
    """Halve height and width by averaging."""

    casts_weights = constant_buffers = True

    def __init__(self):
        super().__init__("down", [1, 1])


class Doubled(Resample):
    """Double height and width by repeating pixels."""

    casts_weights = constant_buffers = True

    def __init__(self):
        super().__init__("up", [1, 1])


class Downsample(nn.Module):
    """Halve height and width by a 3x3 convolution of stride 2, or by averaging without `conv`."""

    def __init__(self, channels: int, conv: bool):
        super().__init__()
        self.op = Conv2d(channels, channels, 3, stride=2, **INITS) if conv else Halved()

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Double height and width by repeating pixels, followed by a 3x3 convolution with `conv`."""

    def __init__(self, channels: int, conv: bool):
        super().__init__()
        self.doubled = Doubled()
        self.conv = Conv2d(channels, channels, 3, **INITS) if conv else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.doubled(x))


class AttentionPool(nn.Module):
    """Attention pooling (Radford et al. 2021, arXiv 2103.00020), [B,C,H,W] -> [B,n_out].

    The mean over all positions is put before them as another token; the output is what that token gathers by attention
    from all, with a learned position added to each. Raises UserError for another size than `positions` = H*W.
    """

    casts_weights = True

    def __init__(self, positions: int, channels: int, heads: int, n_out: int):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.empty(channels, positions + 1))
        self.reset_parameters()
        self.qkv_proj = Pointwise(channels, 3 * channels)
        self.c_proj = Pointwise(channels, n_out)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        shape = tuple(self.positional_embedding.shape)
        self.positional_embedding.copy_(torch.randn(shape) / math.sqrt(shape[0]))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        places = self.positional_embedding.to(x.dtype)
        if flat.shape[2] + 1 != places.shape[1]:
            raise UserError(
                f"attention pooling was made for {places.shape[1] - 1} positions, not {x.shape[2]}x{x.shape[3]}; give "
                "images of the classifier's own size, or use `pool`=average"
            )
        tokens = torch.cat([flat.mean(dim=2, keepdim=True), flat], dim=2) + places
        q, k, v = split_heads(self.qkv_proj(tokens), self.heads, grouped=True)
        mixed = attention(q[:, :, :1], k, v).transpose(2, 3)  # only the first token's output is used
        return self.c_proj(mixed.reshape(len(x), -1, 1)).squeeze(2)


class Stage(nn.Sequential):
    """Layers in sequence, of which blocks also get the embedding."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, emb) if isinstance(layer, Block) else layer(x)
        return x
