"""DDIM (Song et al. 2021, arXiv 2010.02502)."""

from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.gaussian_steps import GaussianSteps
from elucid.training.samplers.base import Callback, Denoise, Noise, Sampler, estimate, state_and_steps


class DDIMSampler(Sampler):
    """x' = x0 + sqrt(sigma'^2 - eta^2 v) (x - x0)/sigma + eta sqrt(v) z, v = beta-tilde (ibid., eq. 12); N evaluations.

    eta 0 is deterministic, an Euler step in sigma, and eta 1 is DDPM's step with the small variance. Classifier
    guidance changes the predicted noise (Dhariwal & Nichol 2021, algorithm 2). `noise_scale` and `epsilon_scale` as in
    `DDPMSampler`.
    """

    default_steps = 50
    default_schedule = "respaced"

    def __init__(
        self,
        eta: float = 0.0,
        noise_scale: float = 1.0,
        epsilon_scale: float = 1.0,
    ):
        if not 0 <= eta <= 1:
            raise UserError(f"eta={eta:g} must be from 0 (deterministic) to 1 (DDPM) (`eta`)")
        self.eta = eta
        self.noise_scale, self.epsilon_scale = noise_scale, epsilon_scale

    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback | None = None
    ) -> Tensor:
        x, sigmas, is_zero = state_and_steps(x, sigmas)
        steps = GaussianSteps(sigmas)
        for i in range(len(steps)):
            sigma, sigma_next = sigmas[i], sigmas[i + 1]
            x0 = self.x0(denoise, x, sigma, callback)
            if is_zero[i + 1]:
                return x0
            variance = self.eta**2 * steps.log_small[i].exp()
            epsilon = (x - x0) / sigma
            x = x0 + (sigma_next**2 - variance).clamp_min(0).sqrt() * epsilon
            if self.eta:
                x = x + self.noise_scale * variance.sqrt() * noise(x)
        return x

    def x0(self, denoise: Denoise, x: Tensor, sigma: Tensor, callback: Callback | None) -> Tensor:
        """Return the estimate with the predicted noise scaled."""
        x0 = estimate(denoise, x, sigma, callback)
        return x - self.epsilon_scale * (x - x0) if self.epsilon_scale != 1 else x0

    def invert(self, denoise: Denoise, images: Tensor, sigmas: Tensor, callback: Callback | None = None) -> Tensor:
        """Return the noise x at sigmas[0] that the deterministic sampler takes to about these images [B,C,H,W].

        The same equation backwards, from 0 to sigmas[0] (ibid., section 4.3): each step uses the prediction at its
        lower end, the first that at sigmas[-2]. Raises UserError if eta is not 0.
        """
        if self.eta:
            raise UserError(f"eta={self.eta:g}: only the deterministic sampler can be inverted; use eta=0")
        x, sigmas, _ = state_and_steps(images, sigmas)
        for i in range(len(sigmas) - 2, -1, -1):
            sigma, upper = sigmas[i + 1], sigmas[i]
            at = sigma if float(sigma.max()) > 0 else sigmas[-2]
            x0 = self.x0(denoise, x, at, callback)
            x = x + (upper - sigma) * (x - x0) / at
        return x
