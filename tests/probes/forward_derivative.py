"""A loss with a forward derivative and a second noise level, which the network is told as a condition."""

import torch

from elucid.training.losses.base import Loss, per_element
from elucid.training.networks.attention import jvp
from elucid.training.noise.distributions import NoiseDistribution
from elucid.training.types import LossOutput


class TwoLevels(Loss):
    """|D(x; sigma, sigma_to) - y - (sigma_to - sigma) dD/dsigma|^2 / c_out^2 along the path of x, its slope held fixed.

    The estimate at one noise level is tied to its change towards another, as flow maps are (Geng et al. 2025).
    """

    def __init__(self, noise: NoiseDistribution):
        super().__init__()
        self.noise = noise

    def adapt(self, spec):
        return spec.with_vector("sigma_to", 1)

    def forward(self, denoiser, batch, step):
        images = batch.images
        sigma, other = (self.noise.sample(len(batch), denoiser, images.device) for _ in range(2))
        sigma_to, n = torch.minimum(sigma, other), torch.randn_like(images)
        cond = {**batch.cond, "sigma_to": sigma_to.flatten(1)}
        x0, slope = jvp(
            lambda x, sigma: denoiser(x, sigma, cond).x0, (images + n * sigma, sigma), (n, torch.ones_like(sigma))
        )
        weight = denoiser.coefficients(sigma).c_out ** -2
        loss = (weight * (x0 - images - (sigma_to - sigma) * slope.detach()) ** 2).sum(dim=(1, 2, 3))
        slopes = slope.square().mean(dim=(1, 2, 3))
        return LossOutput(loss, {"loss": per_element(loss, images), "slope": slopes})
