"""What networks of points share: their layers, and their inputs."""

import math

import torch
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.networks.conditioning import NUMBERS
from elucid.training.networks.edm2.layers import UnitLayer, force_unit_rows
from elucid.training.types import Cond, Step


class PointLayers(nn.Module):
    """Base class: `num_layers` layers of `hidden` units and a last one, which keep magnitudes, for points [B,C,1,1].

    Inputs are x, c_noise, a one, and vector conditions as they are, labels times the root of their number. With
    `log_noise`, ln(1 + c_noise) / 2 stands for c_noise, which some preconditioners count to 1000, and for a second
    level. Raises UserError for larger images.
    """

    name: str

    def __init__(
        self,
        img_resolution: int | list[int],
        in_channels: int,
        n_out: int,
        vector: dict[str, int] | None,
        hidden: int,
        num_layers: int,
        log_noise: bool,
    ):
        super().__init__()
        if img_resolution not in (1, [1, 1], (1, 1)):
            raise UserError(
                f"the network {self.name} takes images of 1x1 pixels, not of {img_resolution}; use another arch"
            )
        if hidden < 1 or num_layers < 1:
            raise UserError(f"hidden={hidden} and num_layers={num_layers} must be 1 or more")
        self.vector, self.dims, self.log_noise = dict(vector or {}), in_channels, log_noise
        widths = [in_channels + 2 + sum(self.vector.values()), *[hidden] * num_layers, n_out]
        # With an activation between each two, as in the published weights: layers.0, layers.2, ...
        layers: list[nn.Module] = []
        for n_in, n_next in zip(widths[:-1], widths[1:], strict=True):
            layers += [UnitLayer(n_in, n_next), nn.SiLU()]
        self.layers = nn.ModuleList(layers[:-1])
        self.gain = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.gain)

    def features(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        """Return the inputs of the first layer [B,D]."""
        parts = [x.flatten(1), self.number(c_noise)[:, None].to(x.dtype), torch.ones_like(x.flatten(1)[:, :1])]
        for name, width in self.vector.items():
            value = self.number(cond[name]) if name in NUMBERS else cond[name]
            parts.append(value.to(x.dtype) * (math.sqrt(width) if name == "labels" else 1.0))
        return torch.cat(parts, dim=1)

    def number(self, value: Tensor) -> Tensor:
        """Return a noise level or another number of the preconditioner's as the layers see it."""
        return value.abs().log1p() * value.sign() / 2 if self.log_noise else value

    def after_step(self, step: Step) -> None:
        force_unit_rows(self)
