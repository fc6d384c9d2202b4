"""A perceptual term: the estimate looks to a frozen encoder like the clean image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.features.base import FeatureEncoder
from elucid.training.losses.alignment import require_images
from elucid.training.losses.base import Load, Loss, LossWrapper, elements, require_denoiser, with_total
from elucid.training.losses.uncertainty import first_call
from elucid.training.preconds.base import Denoiser, Preconditioned, as_levels
from elucid.training.types import Batch, LossOutput, Step


class PerceptualLoss(LossWrapper):
    """base + weight * d * mean_n |u(D)_n - u(y)_n|^2 where sigma < `below`, u a frozen encoder's tokens of unit length.

    The distance of Zhang et al. 2018 (LPIPS, arXiv 1801.03924) without its learned weights, between the first estimate
    D of `base` and the clean image y; d is the number of elements, over which `base` sums (1 if it takes the mean).
    At large sigma the best estimate is a blurred mean, which should not look like an image. Gradients pass through
    `features` to D; it runs for all images, as choosing some would make a GPU wait. Logged: the base's terms as they
    are, and `perceptual`, zero for images above the bound. Raises UserError for latents.
    """

    uses_all_parameters = True

    def __init__(self, base: Loss, features: FeatureEncoder, weight: float = 0.1, below: float = 1.0):
        super().__init__(base)
        for name, value in (("weight", weight), ("below", below)):
            if not value > 0:
                raise UserError(f"loss.{name}={value} must be above 0")
        self.features, self.weight, self.below = features, weight, below

    def check(self, denoiser: Preconditioned) -> None:
        require_denoiser(self, denoiser)
        require_images(self, denoiser)
        if denoiser.spec.latent:
            raise UserError("perceptual compares images, and the network makes latents; leave out `train_on_latents`")
        super().check(denoiser)

    def setup(self, denoiser: Denoiser, load: Load) -> None:
        super().setup(denoiser, load)
        self.features.load()

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        if step.phase != "main":
            return self.base(denoiser, batch, step)
        with first_call(denoiser) as heard:
            out = with_total(self.base(denoiser, batch, step), denoiser, batch.images, step)
        if not heard or heard[0].prediction.x0.shape != batch.images.shape:
            base = type(self.base).__name__
            raise UserError(f"perceptual: {base} does not begin with one prediction for each image; wrap another loss")
        sigma, x0 = as_levels(heard[0].sigma, batch.images).flatten().expand(len(batch)), heard[0].prediction.x0
        term = torch.where(sigma < self.below, self.distance(x0, batch.images), 0)
        return LossOutput(out.loss + self.weight * elements(self, batch) * term, {**out.terms, "perceptual": term})

    def distance(self, x0: Tensor, images: Tensor) -> Tensor:
        """Return the mean over tokens of the squared distance of unit-length tokens [B], from 0 to 4."""
        with torch.no_grad():
            wanted = F.normalize(self.features(images), dim=2)
        return (F.normalize(self.features(x0), dim=2) - wanted).square().sum(dim=2).mean(dim=1)
