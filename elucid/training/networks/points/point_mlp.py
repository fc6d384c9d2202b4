"""A plain network of points, for losses and preconditioners that want more of it than one output per coordinate."""

from torch import Tensor

from elucid.training.networks.edm2.layers import UnitLayer
from elucid.training.networks.edm2.magnitude import SILU_MAGNITUDE
from elucid.training.networks.points.base import PointLayers
from elucid.training.networks.resolutions import BOTTLENECK, inner_layers
from elucid.training.types import Cond


class PointMLP(PointLayers):
    """F(x, c_noise, cond) [B,out_channels,1,1] = gain times the last of the layers, which keep magnitudes.

    Unlike `PointNet` it is no gradient, and may have channels for a variance and coordinates. `hidden`, `num_layers`
    and `log_noise` are those of `PointLayers`. With `features` ["bottleneck"] the last hidden units [B,hidden,1,1] are
    returned beside the output, in a dict.
    """

    name = "points_mlp"
    uses_all_parameters = recordable = True
    feature_layers = (BOTTLENECK,)

    def __init__(
        self,
        img_resolution: int | list[int],
        in_channels: int,
        out_channels: int,
        vector: dict[str, int] | None = None,
        hidden: int = 64,
        num_layers: int = 4,
        log_noise: bool = False,
        features: list[str] = (),
    ):
        super().__init__(img_resolution, in_channels, out_channels, vector, hidden, num_layers, log_noise)
        self.inner = inner_layers(features)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        hidden = self.features(x, c_noise, cond)
        for layer in self.layers[:-1]:
            hidden = layer(hidden) if isinstance(layer, UnitLayer) else layer(hidden) / SILU_MAGNITUDE
        out = (self.gain * self.layers[-1](hidden))[:, :, None, None]
        return (out, {BOTTLENECK: hidden[:, :, None, None]}) if self.inner else out
