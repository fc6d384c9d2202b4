"""The loss of flow matching: denoising score matching with times of a path and the weight of a predicted quantity."""

import torch
from torch import Tensor
from torch.nn import functional as F

from elucid.dnnlib.errors import UserError
from elucid.training.losses.dsm import DSM
from elucid.training.noise.distributions import NoiseDistribution
from elucid.training.noise.paths import path_of
from elucid.training.preconds.base import Denoiser
from elucid.training.types import Batch, LossOutput, Step

ERRORS = ("v", "x", "epsilon", "score", "likelihood")


class FlowMatching(DSM):
    """|v(x_t, t) - (a' x0 + b' n)|^2 of the path x_t = a x0 + b n (Lipman et al. 2023), as a weight of |D - x0|^2.

    `error` is the quantity whose squared error is minimised, whatever the network predicts. With W = a b' - a' b,
    v: (W / b)^2, on the linear path ((1 + sigma) / sigma)^2; x: 1; epsilon: 1 / sigma^2; score of x_t: a^2 / b^4;
    likelihood: a W / b^3 (Ma et al. 2024). A network that predicts x with the error of v, b not below `clamp`, is JiT's
    (Li & He 2025, `clamp`=0.05). `noise` draws t. `cosine` times 1 - cos(v, its target), the angle among the channels
    of a pixel, is added (Yao & Wang 2025). With `mean` the loss is the mean over C, H, W as in the published programs,
    not their sum, which matters to gradient clipping and Adam's epsilon.
    """

    uses_all_parameters = True

    def __init__(
        self,
        noise: NoiseDistribution,
        error: str = "v",
        clamp: float = 0.0,
        cosine: float = 0.0,
        mean: bool = False,
    ):
        super().__init__(noise)
        if error not in ERRORS:
            raise UserError(f"error={error!r} is unknown; choose from {', '.join(ERRORS)}")
        if not 0 <= clamp < 1 or cosine < 0:
            raise UserError(f"clamp={clamp:g} must be in [0, 1) and cosine={cosine:g} not negative")
        self.error, self.clamp, self.cosine, self.mean = error, clamp, cosine, mean

    @property
    def is_its_error(self) -> bool:
        return not self.cosine and not self.mean

    def weight_at(self, denoiser: Denoiser, sigma: Tensor) -> Tensor:
        path = path_of(denoiser)
        if self.error == "x":
            return torch.ones_like(sigma)
        a, b = path.scales(sigma)
        rate, clamped = b / path.noise_per_rate(sigma), b.clamp_min(self.clamp)  # W and b
        if self.error == "v":
            return (rate / clamped) ** 2
        c = path.noise_scale
        if self.error == "epsilon":
            return (a / (c * clamped)) ** 2
        if self.error == "score":
            return a**2 / (c * clamped) ** 4
        return a * rate / (c**2 * clamped**3)

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        one = self.evaluate(denoiser, batch)
        squares, elements = one.error.sum(dim=(1, 2, 3)), batch.images[0].numel()
        loss, terms = squares, {}
        if self.cosine:
            angle = self.angle(denoiser, batch.images, one.x, one.sigma, one.prediction.x0) * elements
            loss, terms = squares + self.cosine * angle, {"squares": squares, "cosine": angle}
        out = self.output(denoiser, batch, one, loss, **terms)
        return LossOutput(out.loss / elements, out.terms) if self.mean else out

    def angle(self, denoiser: Denoiser, images: Tensor, x: Tensor, sigma: Tensor, x0: Tensor) -> Tensor:
        """Return the mean over pixels of 1 - cos(v, target) [B]."""
        path = path_of(denoiser)
        t = path.time(sigma)
        target = path.a_slope(t) * images + path.b_slope(t) * path.noise_scale * (x - images) / sigma
        velocity = target - (x0 - images) / path.noise_per_rate(sigma)
        return 1 - F.cosine_similarity(velocity, target, dim=1).mean(dim=(1, 2))
