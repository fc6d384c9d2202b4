"""Layers shared by the U-Nets. Weights are float32 and are cast to the dtype of the input in `forward`.

`casts_weights` says of a class that it reads its weights in no other way, so that a cast may be made once for many
passes; `constant_buffers`, that training does not change its buffers. Both hold for the class that has them, and not
for those derived from it.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F

from elucid.training.networks.kernels.box import doubled, halved
from elucid.training.networks.kernels.cpu_linear import linear
from elucid.training.networks.kernels.fused_norm import FusedNorm
from elucid.training.networks.kernels.rows import runs_fused
from elucid.training.networks.kernels.winograd import conv2d

Init = Callable[[tuple[int, ...], int, int], Tensor]
"""(shape, fan_in, fan_out) -> initial value of a weight or bias."""


def xavier_uniform(gain: float = 1.0) -> Init:
    """U(-b, b) with b = gain * sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010), as in Song et al. 2021."""
    return partial(_xavier, gain)


def lecun_uniform(gain: float = 1.0) -> Init:
    """U(-b, b) with b = gain / sqrt(fan_in), torch's default for convolutions."""
    return partial(_lecun, gain)


def zeros() -> Init:
    return _zeros


def unit_normal() -> Init:
    """N(0, 1), e.g. for one-hot labels, which select one row: their fan-in is 1 for any number of classes."""
    return _unit_normal


# Module-level functions instead of closures, since networks are copied and pickled with their initialisers.


def _xavier(gain: float, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
    return _uniform(shape, gain * math.sqrt(6 / (fan_in + fan_out)))


def _lecun(gain: float, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
    return _uniform(shape, gain / math.sqrt(fan_in))


def _zeros(shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
    return torch.zeros(shape)


def _unit_normal(shape: tuple[int, ...], fan_in: int, fan_out: int) -> Tensor:
    return torch.randn(shape)


def _uniform(shape: tuple[int, ...], bound: float) -> Tensor:
    return (torch.rand(shape) * 2 - 1) * bound


class Weighted(nn.Module):
    """Base class of layers with a weight and an optional bias, initialised by `reset_parameters`."""

    def __init__(self, shape: tuple[int, ...], fans: tuple[int, int], bias: bool, init: Init, bias_init: Init):
        super().__init__()
        self.fans, self.init, self.bias_init = fans, init, bias_init
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.empty(shape[0])) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        self.weight.copy_(self.init(tuple(self.weight.shape), *self.fans))
        if self.bias is not None:
            self.bias.copy_(self.bias_init(tuple(self.bias.shape), *self.fans))


class Linear(Weighted):
    """y = x W^T + b, [B, n_in] -> [B, n_out]."""

    casts_weights = True

    def __init__(
        self, n_in: int, n_out: int, bias: bool = True, init: Init | None = None, bias_init: Init | None = None
    ):
        super().__init__((n_out, n_in), (n_in, n_out), bias, init or xavier_uniform(), bias_init or zeros())

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


def low_pass(taps: list[int]) -> Tensor:
    """Return the separable filter [k,k] with these taps, normalised to sum 1."""
    line = torch.tensor(taps, dtype=torch.float32)
    return line.outer(line) / line.sum().square()


class Resample(nn.Module):
    """Double (`up`) or halve (`down`) height and width with a separable low-pass filter, e.g. [1,1] or [1,3,3,1].

    `kept` is a side that stays as it is: 2 the height, as of spectra [B,C,1,W], 3 the width.
    """

    casts_weights = constant_buffers = True
    kept: int | None = None

    def __init__(self, mode: str, taps: list[int]):
        super().__init__()
        self.mode, self.taps, self.box = mode, list(taps), list(taps) == [1, 1]
        self.register_buffer("kernel", torch.empty(len(taps), len(taps)), persistent=False)
        self.padding = (len(taps) - 1) // 2
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.kernel.copy_(low_pass(self.taps) * (4 if self.mode == "up" else 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is not None:
            return self._along_the_other(x)
        if self.box:  # same result without a convolution
            return halved(x) if self.mode == "down" else doubled(x)
        channels = x.shape[1]
        kernel = self.kernel.to(x.dtype).expand(channels, 1, -1, -1)
        convolve = F.conv2d if self.mode == "down" else F.conv_transpose2d
        return convolve(x, kernel, stride=2, padding=self.padding, groups=channels)

    def _along_the_other(self, x: Tensor) -> Tensor:
        channels, across = x.shape[1], self.kept == 2
        line = self.kernel.sum(0) / (2 if self.mode == "up" else 1)  # of the doubling of one side
        line = line.to(x.dtype).reshape((1, -1) if across else (-1, 1)).expand(channels, 1, -1, -1)
        convolve = F.conv2d if self.mode == "down" else F.conv_transpose2d
        stride, padding = ((1, 2), (0, self.padding)) if across else ((2, 1), (self.padding, 0))
        return convolve(x, line, stride=stride, padding=padding, groups=channels)


class Conv2d(Weighted):
    """Convolution with odd kernel size and zero padding, with a stride.

    `resample` ("up" or "down") resamples the input first. With `winograd`, convolutions for which it is faster are
    computed by Winograd's algorithm.
    """

    casts_weights = True
    winograd = False

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int,
        resample: str | None = None,
        taps: list[int] | None = None,
        init: Init | None = None,
        bias_init: Init | None = None,
        stride: int = 1,
    ):
        shape, fans = (n_out, n_in, kernel, kernel), (n_in * kernel**2, n_out * kernel**2)
        super().__init__(shape, fans, True, init or xavier_uniform(), bias_init or zeros())
        self.resample = Resample(resample, taps or [1, 1]) if resample else None
        self.padding, self.stride = kernel // 2, stride

    def forward(self, x: Tensor, biased: bool = True) -> Tensor:
        """Convolve x; without the bias if what follows adds it."""
        if self.resample is not None:
            x = self.resample(x)
        bias = self.bias.to(x.dtype) if biased else None
        return conv2d(x, self.weight.to(x.dtype), bias, self.padding, self.stride, self.winograd)


class StridedConv2d(Conv2d):
    """3x3 convolution with stride 2 on the low-passed input (Zhang 2019), [B,n_in,H,W] -> [B,n_out,H/2,W/2].

    Unlike `Conv2d(resample="down")`, it does not downsample between the low-pass filter and the 3x3 convolution; the
    convolution itself has stride 2. A side that is `kept` stays as it is, see `Resample`.
    """

    casts_weights = constant_buffers = True
    kept: int | None = None

    def __init__(self, n_in: int, n_out: int, taps: list[int]):
        super().__init__(n_in, n_out, 3)
        self.taps = list(taps)
        self.register_buffer("low_pass", low_pass(self.taps), persistent=False)
        self.low_pass_padding = (len(taps) - 1) // 2 + 1

    def reset_parameters(self) -> None:
        super().reset_parameters()
        if hasattr(self, "low_pass"):  # not yet set when the base class calls this
            self.low_pass.copy_(low_pass(self.taps))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        kernel = self.low_pass.to(x.dtype).expand(channels, 1, -1, -1)
        weight, bias, pad = self.weight.to(x.dtype), self.bias.to(x.dtype), self.low_pass_padding
        if self.kept is None:
            return F.conv2d(F.conv2d(x, kernel, padding=pad, groups=channels), weight, bias, stride=2)
        across = self.kept == 2
        line = kernel.sum(2, keepdim=True) if across else kernel.sum(3, keepdim=True)
        x = F.conv2d(x, line, padding=(0, pad) if across else (pad, 0), groups=channels)
        return F.conv2d(x, weight, bias, (1, 2) if across else (2, 1), (1, 0) if across else (0, 1))


class GroupNorm(nn.Module):
    """Group normalisation (Wu & He 2018) with 32 groups, or fewer so that each has at least 4 channels."""

    fused = False  # computed by the kernels of `fused_norm` where they can run
    casts_weights = True

    def __init__(self, channels: int, eps: float = 1e-5):
        super().__init__()
        self.groups, self.eps = min(32, channels // 4), eps
        self.weight = nn.Parameter(torch.empty(channels))
        self.bias = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, *conditions: Tensor | None, activates: bool = False) -> Tensor:
        """Normalise x; by the fused kernels, with what else `norm_silu` computes with, if that is given."""
        if forward_ad._current_level >= 0:  # torch's forward derivative takes channels first only
            x = x.contiguous()
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        if conditions or (self.fused and runs_fused(x)):
            added, before, scale, shift = conditions or (None, None, None, None)
            how = self.groups, self.eps, activates
            return FusedNorm.apply(x, added, before, weight, bias, scale, shift, *how)
        return F.group_norm(x, self.groups, weight, bias, self.eps)


class PositionalEmbedding(nn.Module):
    """Sines and cosines of geometrically spaced frequencies 1..1/10000 (Vaswani et al. 2017), [B] -> [B, channels].

    `endpoint` makes the last frequency exactly 1/10000 and `sin_first` puts the sines first, both as in DDPM++.
    """

    constant_buffers = True

    def __init__(self, channels: int, endpoint: bool = False, sin_first: bool = False):
        super().__init__()
        self.endpoint, self.sin_first = endpoint, sin_first
        self.register_buffer("frequencies", torch.empty(channels // 2), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        half = len(self.frequencies)
        exponents = torch.arange(half, dtype=torch.float32) / (half - int(self.endpoint))
        self.frequencies.copy_((1 / 10000) ** exponents)

    def forward(self, values: Tensor) -> Tensor:
        angles = values.outer(self.frequencies.to(values.dtype))
        waves = [angles.cos(), angles.sin()]
        return torch.cat(waves[::-1] if self.sin_first else waves, dim=1)


class FourierEmbedding(nn.Module):
    """sin and cos of 2 pi f v with random frequencies f ~ N(0, 16^2) (Tancik et al. 2020), [B] -> [B, channels]."""

    constant_buffers = True

    def __init__(self, channels: int, scale: float = 16.0):
        super().__init__()
        self.scale = scale
        self.register_buffer("freqs", torch.empty(channels // 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.freqs.copy_(torch.randn(len(self.freqs)) * self.scale)

    def forward(self, values: Tensor) -> Tensor:
        angles = values.outer((2 * math.pi * self.freqs).to(values.dtype))
        return torch.cat([angles.sin(), angles.cos()], dim=1)
