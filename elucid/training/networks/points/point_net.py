"""A small network of points whose output is the gradient of a learned function, as in autoguidance's toy example."""

from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.networks.edm2.layers import UnitLayer
from elucid.training.networks.edm2.magnitude import SILU_MAGNITUDE
from elucid.training.networks.points.base import PointLayers
from elucid.training.types import Cond


class PointNet(PointLayers):
    """F(x, c_noise, cond) = 2 gradient_x [gain mean(h^2)] of points x [B,C,1,1], h the last of `num_layers` layers.

    The layers keep magnitudes, with SiLU in between (Karras et al. 2024, arXiv 2406.02507, appendix on the toy
    example). Within EDM's preconditioner with sigma_data = 1/2, D is then that of the density ln p(x; sigma) =
    gain mean(h^2) / sigma - |x|^2 / (2 (sigma^2 + sigma_data^2)) (`log_density`). `hidden`, `num_layers` and
    `log_noise` are those of `PointLayers`. Raises UserError for larger images, and for other channels out than in.
    """

    name = "points"
    uses_all_parameters = recordable = True

    def __init__(
        self,
        img_resolution: int | list[int],
        in_channels: int,
        out_channels: int,
        vector: dict[str, int] | None = None,
        hidden: int = 64,
        num_layers: int = 4,
        log_noise: bool = False,
    ):
        if in_channels != out_channels:
            raise UserError(
                f"the network points returns what it is given, not {out_channels} channels for {in_channels}; for a "
                "variance or coordinates use `arch`=points_mlp"
            )
        super().__init__(img_resolution, in_channels, hidden, vector, hidden, num_layers, log_noise)

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
