"""EDM's sampler: Heun's method in sigma, with optional noise (Karras et al. 2022, algorithm 2)."""

from torch import Tensor

from elucid.training.samplers.base import Churn, Denoise, Noise, Sampler, state_and_steps


class EDMSampler(Sampler):
    """dx/dsigma = (x - D(x; sigma)) / sigma by Heun's second-order method, Euler in the step to 0: 2N - 1 evaluations.

    `S_churn` > 0 adds noise before each step at levels in [S_min, S_max], scaled by S_noise.
    """

    def __init__(
        self,
        num_steps: int = 18,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        rho: float = 7.0,
        S_churn: float = 0.0,
        S_min: float = 0.0,
        S_max: float = float("inf"),
        S_noise: float = 1.0,
    ):
        super().__init__(num_steps, sigma_min, sigma_max, rho)
        self.churn = Churn(S_churn, S_min, S_max, S_noise)

    def __call__(self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
        x, sigmas, is_zero = state_and_steps(x, sigmas)
        num_steps = len(sigmas) - 1
        for i in range(num_steps):
            sigma, sigma_next = sigmas[i], sigmas[i + 1]
            sigma_hat = self.churn.raised(denoise, sigma, num_steps)
            x_hat = x + self.churn.added(x, sigma, sigma_hat, noise)
            slope = (x_hat - denoise(x_hat, sigma_hat)) / sigma_hat
            x = x_hat + (sigma_next - sigma_hat) * slope
            if not is_zero[i + 1]:
                slope_next = (x - denoise(x, sigma_next)) / sigma_next
                x = x_hat + (sigma_next - sigma_hat) * (slope + slope_next) / 2
        return x
