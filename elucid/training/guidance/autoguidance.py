"""Autoguidance: guidance by a weaker model."""

from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.guidance.base import Guidance
from elucid.training.types import Cond, Prediction


class AutoGuidance(Guidance):
    """Guides with another model, e.g. a smaller or less trained one (Karras et al. 2024, arXiv 2406.02507).

    A guide without classes is not given labels. Raises UserError if size, channels or classes of the two differ.
    """

    def __init__(
        self, denoiser, guide, scale: float = 1.0, interval: list[float] | None = None, channels: int | None = None
    ):
        super().__init__(denoiser, scale, interval, channels)
        for what, ours, theirs in (
            ("size", denoiser.spec.resolution, guide.spec.resolution),
            ("channels", denoiser.spec.image_channels, guide.spec.image_channels),
            ("classes", denoiser.spec.label_dim, guide.spec.label_dim or denoiser.spec.label_dim),
        ):
            if ours != theirs:
                raise UserError(
                    f"`guide`: its {what}, {theirs}, must be the network's, {ours}; choose another snapshot"
                )
        self.guide = guide

    def pair(self, x: Tensor, sigma: Tensor, cond: Cond) -> tuple[Prediction, Tensor]:
        told = cond if self.guide.spec.label_dim else {name: cond[name] for name in cond if name != "labels"}
        return self.denoiser(x, sigma, cond), self.guide(x, sigma, told).x0
