"""Diffusion posterior sampling: the gradient of the error of what the estimate predicts to be measured."""

from functools import cached_property

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.guidance.inverse.base import PosteriorDenoiser, Pull, require_positive
from elucid.training.inverse.problem import InverseProblem, Observation
from elucid.training.noise.discrete import betas, levels_of, nearest_level

SCALES = ("normalised", "likelihood")


class DPS(PosteriorDenoiser):
    """D + sigma^2 g, g = -c grad_x |y - A D|^2 (Chung et al. 2022, arXiv 2209.14687, section 3).

    `scale` "normalised": c = `step` sqrt(1 - beta) / (beta |y - A D|), beta that of sigma in DDPM's linear schedule of
    `steps` steps, the number that the sampler takes: so a step of DDPM is moved by the paper's step / |y - A D| times
    the gradient. Norms are in normalised units, as published; squares are weighted by 1 / variance where it varies, as
    of counts. "likelihood": g is `step` times the gradient of -|y - A D|^2 / (2 variance), the log-likelihood of D,
    without doubt about D: no constant to choose, but stiff where sigma is far above the noise of y. Raises UserError
    for impossible options, and for "likelihood" if y has no noise.
    """

    def __init__(
        self,
        denoiser,
        problem: InverseProblem,
        step: float = 1.0,
        scale: str = "normalised",
        steps: int = 1000,
    ):
        super().__init__(denoiser, problem)
        require_positive(step=step, steps=steps)
        if scale not in SCALES:
            raise UserError(f"`posterior`: scale={scale!r} is unknown; choose from {', '.join(SCALES)}")
        self.step, self.scale, self.steps = step, scale, steps

    @cached_property
    def schedule(self) -> tuple[Tensor, Tensor]:
        """Levels sigma_1 < ... < sigma_1000 and ln abar_0, ..., ln abar_1000 of the published process, float64."""
        levels = levels_of(betas("linear", 1000)).flip(0)
        return levels[1:], -torch.log1p(levels**2)

    def beta(self, sigma: Tensor) -> Tensor:
        """Return 1 - abar_t / abar_(t - 1000 / steps) in the shape of sigma, t being the time of the nearest level."""
        levels, log_abar = (one.to(sigma) for one in self.schedule)
        t = nearest_level(levels, sigma) + 1
        before = (t.to(sigma) - 1000 / self.steps).clamp_min(0)
        whole = before.floor().long()
        log_before = torch.lerp(log_abar[whole], log_abar[(whole + 1).clamp_max(1000)], (before - whole).to(sigma))
        return -torch.expm1(log_abar[t] - log_before)

    def change(self, x0: Tensor, sigma: Tensor, seen: Observation, pull: Pull) -> Tensor:
        missing = seen.value - self.problem.measure(x0)
        if self.scale == "likelihood":
            if not bool((seen.variance > 0).all()):
                raise UserError("`posterior`: dps with scale=likelihood needs noise; set `measurement_noise`")
            return self.step * sigma**2 * pull(self.problem.adjoint(missing / seen.variance))
        units = self.problem.units.like(missing)
        weights = relative_weights(seen.variance / units**2, self.problem.reached.to(missing))
        norm = (weights.sqrt() * missing / units).flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        gradient = 2 * pull(self.problem.adjoint(weights * missing / units**2))
        beta = self.beta(sigma)
        factor = self.step * sigma**2 * (1 - beta).sqrt() / beta
        return factor * gradient / norm.clamp_min(torch.finfo(norm.dtype).tiny)


def relative_weights(variance: Tensor, reached: Tensor) -> Tensor:
    """Return 1 / variance [B,...], divided by its mean over what is measured: 1 if all variances are the same.

    `reached` [...] is 1 for numbers that depend on the image, 0 elsewhere.
    """
    if variance[0].numel() == 1 or not bool((variance > 0).all()):
        return torch.ones_like(variance)
    weights = 1 / variance * reached
    mean = weights.flatten(1).sum(1) / reached.sum()
    return weights / mean.reshape(-1, *[1] * (variance.ndim - 1))
