"""Building blocks of diffusion transformers, which work on tokens [B,N,D]; read from top to bottom.

Conditions reach a block as `c` [B,1,D], or [B,N,D] if each token has its own; the SiLU before the linear maps of
modulation has been applied once for all blocks. Weights have the names of the public checkpoints.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elucid.training.networks.attention import attention
from elucid.training.networks.kernels.cpu_linear import linear
from elucid.training.networks.kernels.dropout import Dropout
from elucid.training.networks.layers import Linear, Weighted, xavier_uniform, zeros

Norm = Callable[[int], nn.Module]
"""Width -> a normalisation over the last dimension."""


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016) over the last dimension; `affine` gives it a gain and an offset."""

    casts_weights = True

    def __init__(self, width: int, affine: bool = False, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width)) if affine else None
        self.bias = nn.Parameter(torch.empty(width)) if affine else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if self.weight is not None:
            nn.init.ones_(self.weight)
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(x.dtype)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, x.shape[-1:], weight, bias, self.eps)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) times a gain (Zhang & Sennrich 2019), over the last dimension, computed in float32."""

    casts_weights = True

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), self.eps)


def modulate(x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    """x (1 + scale) + shift, in one pass over the tokens."""
    return x * (1 + scale) if shift is None else torch.addcmul(shift, x, 1 + scale)


def patches(x: Tensor, size: int) -> Tensor:
    """Cut images [B,C,H,W] into tokens [B,N,C*size*size], row by row; within a token the channel varies slowest."""
    batch, channels, height, width = x.shape
    x = x.reshape(batch, channels, height // size, size, width // size, size)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * size * size)


def image(tokens: Tensor, size: int, grid: tuple[int, int], channel_first: bool = False) -> Tensor:
    """Put tokens [B,N,size*size*C] together to images [B,C,H,W]; within a token the channel varies fastest.

    With `channel_first` it varies slowest: the inverse of `patches`.
    """
    rows, columns = grid
    split = (-1, size, size) if channel_first else (size, size, -1)
    order = (0, 3, 1, 4, 2, 5) if channel_first else (0, 5, 1, 3, 2, 4)
    x = tokens.reshape(len(tokens), rows, columns, *split).permute(order)
    return x.reshape(len(tokens), x.shape[1], rows * size, columns * size)


class PatchLinear(Weighted):
    """Linear map of patches, [B,N,C*size*size] -> [B,N,n_out], whose weight is a convolution's, [n_out,C,size,size]."""

    casts_weights = True

    def __init__(self, channels: int, n_out: int, size: int, bias: bool = True):
        n_in = channels * size * size
        super().__init__((n_out, channels, size, size), (n_in, n_out), bias, xavier_uniform(), zeros())

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.to(x.dtype).flatten(1), None if self.bias is None else self.bias.to(x.dtype))


class PatchEmbedding(nn.Module):
    """Images [B,C,H,W] -> tokens [B,N,n_out]: one linear map of each patch (Dosovitskiy et al. 2021)."""

    def __init__(self, channels: int, n_out: int, size: int, flat: bool = False):
        super().__init__()
        self.size = size
        self.proj = Linear(channels * size * size, n_out) if flat else PatchLinear(channels, n_out, size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(patches(x, self.size))


class BottleneckPatchEmbedding(nn.Module):
    """Images [B,C,H,W] -> tokens [B,N,n_out] by way of few channels, for large patches of pixels (Li & He 2025)."""

    def __init__(self, channels: int, bottleneck: int, n_out: int, size: int):
        super().__init__()
        self.size = size
        self.proj1 = PatchLinear(channels, bottleneck, size, bias=False)
        self.proj2 = PatchLinear(bottleneck, n_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj2(self.proj1(patches(x, self.size)))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate neighbouring channels of x [B,heads,N,D] by the angles of their token (Su et al. 2021, RoFormer).

    `cos` and `sin` are those of the angles [N,D/2]. The pairs' first channels come first in the result: attention is
    the same for any order of channels that queries and keys share.
    """
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention of tokens [B,N,D], with normalised (`norm`) and rotated queries and keys if asked.

    softmax(q k^T / sqrt(D/heads)) v (Vaswani et al. 2017); query-key normalisation is by Dehghani et al. 2023.
    `rotary` is nothing, or cosine and sine of the angles.
    """

    def __init__(self, width: int, heads: int, bias: bool = True, norm: Norm | None = None, dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = heads, Dropout(dropout)
        self.qkv = Linear(width, 3 * width, bias=bias)
        self.q_norm = norm(width // heads) if norm else None
        self.k_norm = norm(width // heads) if norm else None
        self.proj = Linear(width, width)

    def forward(self, x: Tensor, *rotary: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = (one.transpose(1, 2) for one in qkv.unbind(2))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotary:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        x = self.proj(attention(q, k, v).transpose(1, 2).flatten(2))
        return self.dropout(x)


class GELUMLP(nn.Module):
    """Two linear maps with the tanh approximation of GELU between them (Hendrycks & Gimpel 2016)."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.dropout = Dropout(dropout)
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.fc1(x), approximate="tanh")
        return self.fc2(self.dropout(x))


class SwiGLU(nn.Module):
    """w3(SiLU(a) * b) with a, b the halves of w12(x) (Shazeer 2020, "GLU Variants Improve Transformer")."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.dropout = Dropout(dropout)
        self.w12 = Linear(width, 2 * hidden)
        self.w3 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        x = F.silu(gate) * value
        return self.w3(self.dropout(x))


class SplitSwiGLU(nn.Module):
    """SwiGLU of three matrices without biases: w2(SiLU(w1(x)) * w3(x))."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0):
        super().__init__()
        self.dropout = Dropout(dropout)
        self.w1 = Linear(width, hidden, bias=False)
        self.w2 = Linear(hidden, width, bias=False)
        self.w3 = Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.w1(x)) * self.w3(x)
        return self.w2(self.dropout(x))


class Block(nn.Module):
    """Attention, then MLP, each modulated by the condition and added through a gate (adaLN, Peebles & Xie 2022).

    x + gate * f(norm(x) (1 + scale) + shift), with shift, scale and gate linear in c; with `zero` these maps start at
    zero, so that a new block returns its input. Without `shift` there are scale and gate only. `place` is the number of
    that map in its weights' names.
    """

    def __init__(
        self,
        width: int,
        norm: Norm,
        attention: Attention,
        mlp: nn.Module,
        shift: bool = True,
        zero: bool = True,
        place: int = 1,
    ):
        super().__init__()
        self.parts, self.place, self.shift = 6 if shift else 4, str(place), shift
        self.norm1, self.norm2, self.attn, self.mlp = norm(width), norm(width), attention, mlp
        linear = Linear(width, self.parts * width, init=zeros() if zero else None)
        self.adaLN_modulation = nn.ModuleDict({self.place: linear})

    def forward(self, x: Tensor, c: Tensor, *rotary: Tensor) -> Tensor:
        parts = self.adaLN_modulation[self.place](c).chunk(self.parts, dim=-1)
        (*shift1, scale1, gate1), (*shift2, scale2, gate2) = parts[: self.parts // 2], parts[self.parts // 2 :]
        x = torch.addcmul(x, gate1, self.attn(modulate(self.norm1(x), scale1, *shift1), *rotary))
        return torch.addcmul(x, gate2, self.mlp(modulate(self.norm2(x), scale2, *shift2)))


class FinalLayer(nn.Module):
    """Norm, modulation and a linear map that starts at zero: tokens [B,N,D] -> [B,N,n_out]."""

    def __init__(self, width: int, n_out: int, norm: Norm, place: int = 1):
        super().__init__()
        self.place = str(place)
        self.norm_final = norm(width)
        self.adaLN_modulation = nn.ModuleDict({self.place: Linear(width, 2 * width, init=zeros())})
        self.linear = Linear(width, n_out, init=zeros())

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation[self.place](c).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), scale, shift))
