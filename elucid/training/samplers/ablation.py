"""Samplers of the literature as combinations of solver, sigma(t), scaling s(t) and schedule.

See Karras et al. 2022, algorithm 1 and table 1.
"""

import copy

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.processes import Process
from elucid.training.samplers.base import Callback, Denoise, Noise, Sampler, estimate, state_and_steps
from elucid.training.samplers.churn import Churn

SOLVERS, SCALINGS = ("euler", "heun"), ("vp", "none")


class AblationSampler(Sampler):
    """dx/dt = (sigma'/sigma + s'/s) x - (sigma' s / sigma) D(x/s; sigma), Euler or second order (eq. 81).

    sigma(t) is the `process`, fitted to the ends of the schedule. `alpha` selects the second-order solver
    (algorithm 3): 1 is Heun's method, 1/2 the midpoint method. The last step, to 0, is an Euler step.
    """

    def __init__(
        self,
        process: Process,
        solver: str = "heun",
        scaling: str = "none",
        alpha: float = 1.0,
        S_churn: float = 0.0,
        S_min: float = 0.0,
        S_max: float | None = None,
        S_noise: float = 1.0,
    ):
        for option, value, known in (("solver", solver, SOLVERS), ("scaling", scaling, SCALINGS)):
            if value not in known:
                raise UserError(f"{option}={value!r} is unknown; choose from {', '.join(known)}")
        if not 0 < alpha <= 1:
            raise UserError(f"alpha={alpha} must be above 0 and at most 1")
        self.process, self.solver, self.scaling, self.alpha = process, solver, scaling, alpha
        self.churn = Churn(S_churn, S_min, S_max, S_noise)
        self.ends: tuple[float, float] | None = None

    @property
    def order(self) -> int:
        return 1 if self.solver == "euler" else 2

    def evaluations(self, num_steps: int) -> int:
        return num_steps if self.solver == "euler" else 2 * num_steps - 1

    def for_schedule(self, schedule, denoise: Denoise) -> "AblationSampler":
        """Return a copy whose process is fitted to the schedule's ends before the denoiser rounds them."""
        sampler = copy.copy(self)
        sampler.ends = schedule.sigma_range(denoise)
        return sampler

    def scale(self, sigma: Tensor) -> Tensor:
        """Return s at a noise level: 1, or 1/sqrt(1 + sigma^2), which keeps unit-variance data at variance 1."""
        return 1 / (1 + sigma**2).sqrt() if self.scaling == "vp" else torch.ones_like(sigma)

    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback | None = None
    ) -> Tensor:
        x, sigmas, is_zero = state_and_steps(x, sigmas)
        curve = self.process.through(*(self.ends or (float(sigmas[-2].min()), float(sigmas[0].max()))))
        num_steps = len(sigmas) - 1

        def slope(x: Tensor, t: Tensor, sigma: Tensor, callback: Callback | None = None) -> Tensor:
            s, growth = self.scale(sigma), curve.derivative(t) / sigma
            # s'/s = -sigma sigma' s^2 for s = 1/sqrt(1 + sigma^2).
            decay = -(sigma**2) * growth * s**2 if self.scaling == "vp" else 0.0
            return (growth + decay) * x - growth * s * estimate(denoise, x / s, sigma, callback)

        x = x * self.scale(sigmas[0])
        for i in range(num_steps):
            sigma, sigma_next = sigmas[i], sigmas[i + 1]
            sigma_hat = self.churn.raised_sigma(denoise, sigma, num_steps)
            t_hat, t_next = curve.time(sigma_hat), curve.time(sigma_next)
            s_hat = self.scale(sigma_hat)
            x_hat = s_hat / self.scale(sigma) * x + s_hat * self.churn.noise_to_add(x, sigma, sigma_hat, noise)
            step = t_next - t_hat
            first = slope(x_hat, t_hat, sigma_hat, callback)
            if self.solver == "euler" or is_zero[i + 1]:
                x = x_hat + step * first
                continue
            t_mid = t_hat + self.alpha * step
            second = slope(x_hat + self.alpha * step * first, t_mid, curve.sigma(t_mid))
            x = x_hat + step * (first + (second - first) / (2 * self.alpha))
        return x / self.scale(sigmas[-1])
