"""The variational bound on the negative log-likelihood of images, in bits per dimension (Ho et al. 2020, eq. 5)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from elucid.torch_utils.rng import PerSeedRandom
from elucid.training.losses.variational import prior_bits
from elucid.training.noise.gaussian_steps import GaussianSteps
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.types import Cond


@dataclass
class Bound:
    """The bound of images [B] in bits per dimension: its `prior` term [B] and those of the steps [B,N], noisiest first.

    The last step's term is -log p(image | x_1), the others are KL(q || p).
    """

    prior: Tensor
    steps: Tensor

    @property
    def total(self) -> Tensor:
        return self.prior + self.steps.sum(dim=1)


@torch.no_grad()
def bound(
    denoiser,
    images: Tensor,
    cond: Cond,
    sigmas: Tensor,
    seeds: list[int],
    variance: str | None = None,
) -> Bound:
    """Estimate the bound of images f32[B,C,H,W] in [-1, 1] of 8 bits, with one noise per image and step.

    The discrete process has the steps of `sigmas` [N+1], the last 0. `variance` None is the denoiser's. The noise of an
    image depends on its seed only.
    """
    denoise, random = BoundDenoiser(denoiser, cond), PerSeedRandom(seeds, images.device)
    images, sigmas = images.to(torch.float64), sigmas.to(images.device, torch.float64)
    steps, kind = GaussianSteps(sigmas), variance or denoiser.variance
    terms = []
    for index in range(len(steps)):
        sigma = sigmas[index]
        x = images + sigma * random.randn_like(images)
        prediction = denoise(x, sigma)
        v = None if prediction.var is None else prediction.var.to(x.dtype)
        at = torch.full((len(images),), index, device=images.device)
        bits = steps.bits(images, x, prediction.x0, steps.log_variance(at, kind, v), at)
        terms.append(bits.mean(dim=(1, 2, 3)))
    return Bound(prior_bits(images, float(sigmas[0])).mean(dim=(1, 2, 3)), torch.stack(terms, dim=1))
