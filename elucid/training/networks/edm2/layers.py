"""Layers whose weights have rows of magnitude 1, and Fourier features."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elucid.training.networks.edm2.magnitude import at_least_float32, unit_rows
from elucid.training.networks.kernels.winograd import conv2d


class UnitLayer(nn.Module):
    """y = gain * W x, W = w / (|w_i| + eps) by rows: a linear map, or a convolution with zero padding if `kernel` > 0.

    Whatever the length of the rows of w, activations keep their magnitude (Karras et al. 2024, arXiv 2312.02696).
    With `normalised` False, W = w. A bias is optional; the paper's networks have none. `winograd` is as of `Conv2d`.
    """

    winograd = False

    def __init__(self, n_in: int, n_out: int, kernel: int = 0, normalised: bool = True, bias: bool = False):
        super().__init__()
        self.normalised, self.padding = normalised, kernel // 2
        self.weight = nn.Parameter(torch.empty(n_out, n_in, *([kernel] * 2 if kernel else [])))
        self.bias = nn.Parameter(torch.empty(n_out)) if bias else None
        self.fan_in = math.prod(self.weight.shape[1:])
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        weight = torch.randn(self.weight.shape)
        self.weight.copy_(unit_rows(weight) if self.normalised else weight / math.sqrt(self.fan_in))
        if self.bias is not None:
            self.bias.zero_()

    def forward(self, x: Tensor, gain: Tensor | None = None, of_input: float = 1.0, of_output: float = 1.0) -> Tensor:
        """Return gain * of_output * W (of_input * x); constant factors cost nothing, as weights are scaled anyway."""
        weight, factor = self.weight.to(at_least_float32(self.weight)), of_input * of_output
        if self.normalised:
            weight = unit_rows(weight, factor / math.sqrt(self.fan_in))
        elif factor != 1:
            weight = weight * factor
        if gain is not None:
            weight = weight * gain
        weight = weight.to(x.dtype)
        bias = None if self.bias is None else (self.bias * of_output).to(x.dtype)
        if weight.ndim == 2:
            return F.linear(x, weight, bias)
        return conv2d(x, weight, bias, self.padding, fast=self.winograd)

    def transposed(self, y: Tensor) -> Tensor:
        """Return y W of a linear map, the gradient of y W x with respect to x."""
        weight = self.weight.to(at_least_float32(self.weight))
        weight = unit_rows(weight, 1 / math.sqrt(self.fan_in)) if self.normalised else weight
        return y @ weight.to(y.dtype)


@torch.no_grad()
def force_unit_rows(module: nn.Module) -> None:
    """Overwrite the weights of all `UnitLayer`s by those of magnitude 1 that they stand for.

    Without it they grow, and the effective learning rate falls (Karras et al. 2024, section 2.3). Weights that are
    shared out among processes are cut between rows.
    """
    for layer in module.modules():
        if isinstance(layer, UnitLayer) and layer.normalised:
            weight = layer.weight
            rows = weight.to_local() if hasattr(weight, "to_local") else weight
            rows.copy_(unit_rows(rows))


class FourierFeatures(nn.Module):
    """[B] -> [B,features], sqrt(2) cos(2 pi (f v + phi)), f ~ N(0, 1), phi ~ U(0, 1).

    Without `unit_magnitude` the factor sqrt(2) is left out.
    """

    constant_buffers = True

    def __init__(self, features: int, unit_magnitude: bool = True):
        super().__init__()
        self.scale = math.sqrt(2) if unit_magnitude else 1.0
        self.register_buffer("freqs", torch.empty(features))
        self.register_buffer("phases", torch.empty(features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.freqs.copy_(2 * math.pi * torch.randn(len(self.freqs)))
        self.phases.copy_(2 * math.pi * torch.rand(len(self.phases)))

    def forward(self, values: Tensor) -> Tensor:
        angles = torch.outer(values.to(at_least_float32(values)), self.freqs) + self.phases
        return (angles.cos() * self.scale).to(values.dtype)
