"""The samplers of the literature as points of one matrix (Karras et al. 2022, algorithm 1 and table 1).

Solver x discretization x schedule sigma(t) x scaling s(t).
"""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.schedules import CURVES, DISCRETIZATIONS, rho_levels
from elucid.training.samplers.base import Churn, Denoise, Noise, Sampler, state_and_steps

CHOICES = {
    "solver": ("euler", "heun"),
    "discretization": tuple(DISCRETIZATIONS),
    "schedule": tuple(CURVES),
    "scaling": ("vp", "none"),
}


class AblationSampler(Sampler):
    """dx/dt = (sigma'/sigma + s'/s) x - (sigma' s / sigma) D(x/s; sigma), by Euler or second order (eq. 81).

    `alpha` chooses among the second-order methods (algorithm 3): 1 is Heun, 1/2 the midpoint rule. The step to 0 is
    Euler's. `sigma_min` and `sigma_max` default to the published ends of each discretization.
    """

    def __init__(
        self,
        num_steps: int = 18,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        rho: float = 7.0,
        solver: str = "heun",
        discretization: str = "edm",
        schedule: str = "linear",
        scaling: str = "none",
        alpha: float = 1.0,
        S_churn: float = 0.0,
        S_min: float = 0.0,
        S_max: float = float("inf"),
        S_noise: float = 1.0,
    ):
        super().__init__(num_steps, sigma_min, sigma_max, rho)
        chosen = {"solver": solver, "discretization": discretization, "schedule": schedule, "scaling": scaling}
        for option, value in chosen.items():
            if value not in CHOICES[option]:
                raise UserError(f"{option}={value!r} is unknown; choose from {', '.join(CHOICES[option])}")
        if not 0 < alpha <= 1:
            raise UserError(f"alpha={alpha} must be above 0 and at most 1")
        self.solver, self.discretization, self.schedule, self.scaling, self.alpha = *chosen.values(), alpha
        self.churn = Churn(S_churn, S_min, S_max, S_noise)

    def levels(self, sigma_min: float, sigma_max: float) -> Tensor:
        if self.discretization == "edm":
            return rho_levels(self.num_steps, sigma_min, sigma_max, self.rho)
        return DISCRETIZATIONS[self.discretization](self.num_steps, sigma_min, sigma_max)

    def scale(self, sigma: Tensor) -> Tensor:
        """s at a level: 1, or 1/sqrt(1 + sigma^2), which keeps the variance of unit-variance data at 1."""
        return 1 / (1 + sigma**2).sqrt() if self.scaling == "vp" else torch.ones_like(sigma)

    def __call__(self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
        x, sigmas, is_zero = state_and_steps(x, sigmas)
        curve = CURVES[self.schedule].through(*self.sigma_range(denoise))
        num_steps = len(sigmas) - 1

        def slope(x: Tensor, t: Tensor, sigma: Tensor) -> Tensor:
            s, growth = self.scale(sigma), curve.derivative(t) / sigma
            # s'/s: with s = 1/sqrt(1 + sigma^2) it is -sigma sigma' s^2.
            decay = -(sigma**2) * growth * s**2 if self.scaling == "vp" else 0.0
            return (growth + decay) * x - growth * s * denoise(x / s, sigma)

        x = x * self.scale(sigmas[0])
        for i in range(num_steps):
            sigma, sigma_next = sigmas[i], sigmas[i + 1]
            sigma_hat = self.churn.raised(denoise, sigma, num_steps)
            t_hat, t_next = curve.time(sigma_hat), curve.time(sigma_next)
            s_hat = self.scale(sigma_hat)
            x_hat = s_hat / self.scale(sigma) * x + s_hat * self.churn.added(x, sigma, sigma_hat, noise)
            step = t_next - t_hat
            first = slope(x_hat, t_hat, sigma_hat)
            if self.solver == "euler" or is_zero[i + 1]:
                x = x_hat + step * first
                continue
            t_mid = t_hat + self.alpha * step
            second = slope(x_hat + self.alpha * step * first, t_mid, curve.sigma(t_mid))
            x = x_hat + step * (first + (second - first) / (2 * self.alpha))
        return x / self.scale(sigmas[-1])
