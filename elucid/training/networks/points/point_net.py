"""A small network of points whose output is the gradient of a learned function, as in autoguidance's toy example."""

import math

import torch
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.networks.edm2.layers import UnitLayer, force_unit_rows
from elucid.training.networks.edm2.magnitude import SILU_MAGNITUDE
from elucid.training.types import Cond, Step


class PointNet(nn.Module):
    """F(x, c_noise, cond) = 2 gradient_x [gain mean(h^2)] of points x [B,C,1,1], h the last of `num_layers` layers.

    The layers keep magnitudes, with SiLU in between (Karras et al. 2024, arXiv 2406.02507, appendix on the toy
    example). Within EDM's preconditioner with sigma_data = 1/2, D is then that of the density ln p(x; sigma) =
    gain mean(h^2) / sigma - |x|^2 / (2 (sigma^2 + sigma_data^2)) (`log_density`). Inputs are x, c_noise, a one, and
    vector conditions as they are, labels times the root of their number. Raises UserError for larger images.
    """

    uses_all_parameters = recordable = True

    def __init__(
        self,
        img_resolution: int | list[int],
        in_channels: int,
        out_channels: int,
        vector: dict[str, int] | None = None,
        hidden: int = 64,
        num_layers: int = 4,
    ):
        super().__init__()
        if img_resolution not in (1, [1, 1], (1, 1)):
            raise UserError(f"the network points takes images of 1x1 pixels, not of {img_resolution}; use another arch")
        if in_channels != out_channels:
            raise UserError(
                f"the network points returns what it is given, not {out_channels} channels for {in_channels}; it has "
                "no variance and no coordinates: use another precond or loss"
            )
        if hidden < 1 or num_layers < 1:
            raise UserError(f"hidden={hidden} and num_layers={num_layers} must be 1 or more")
        self.vector, self.dims = dict(vector or {}), in_channels
        widths = [in_channels + 2 + sum(self.vector.values()), *[hidden] * (num_layers + 1)]
        # With an activation between each two, as in the published weights: layers.0, layers.2, ...
        layers: list[nn.Module] = []
        for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
            layers += [UnitLayer(n_in, n_out), nn.SiLU()]
        self.layers = nn.ModuleList(layers[:-1])
        self.gain = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.gain)

    def features(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        """Return the inputs of the first layer [B,D]."""
        parts = [x.flatten(1), c_noise[:, None].to(x.dtype), torch.ones_like(x.flatten(1)[:, :1])]
        for name, width in self.vector.items():
            parts.append(cond[name].to(x.dtype) * (math.sqrt(width) if name == "labels" else 1.0))
        return torch.cat(parts, dim=1)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        hidden, slopes = self.features(x, c_noise, cond), []
        linear = [layer for layer in self.layers if isinstance(layer, UnitLayer)]
        for layer in linear[:-1]:
            hidden = layer(hidden)
            gate = hidden.sigmoid()
            slopes.append(gate * (1 + hidden * (1 - gate)) / SILU_MAGNITUDE)
            hidden = hidden * gate / SILU_MAGNITUDE
        gradient = linear[-1](hidden) * (2 / linear[-1].weight.shape[0])
        # Back through the layers by hand: a derivative like any other, to learn from and to differentiate.
        for layer, slope in zip(reversed(linear[1:]), reversed(slopes), strict=True):
            gradient = layer.transposed(gradient) * slope
        gradient = linear[0].transposed(gradient)[:, : self.dims]
        return (2 * self.gain * gradient).reshape(x.shape)

    def log_density(self, x: Tensor, sigma: Tensor, cond: Cond, sigma_data: float = 0.5) -> Tensor:
        """Return ln p(x; sigma) [B] up to a constant, of points x [B,C,1,1] at noise levels [B]."""
        total = sigma**2 + sigma_data**2
        hidden = self.features(x / total.sqrt().reshape(-1, 1, 1, 1), sigma.log() / 4, cond)
        for layer in self.layers:
            hidden = layer(hidden) if isinstance(layer, UnitLayer) else layer(hidden) / SILU_MAGNITUDE
        return self.gain * hidden.square().mean(1) / sigma - x.flatten(1).square().sum(1) / (2 * total)

    def after_step(self, step: Step) -> None:
        force_unit_rows(self)
