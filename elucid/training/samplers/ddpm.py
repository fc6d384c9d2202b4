"""DDPM's ancestral sampler (Ho et al. 2020, algorithm 2)."""

from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.choices import VARIANCES
from elucid.training.noise.gaussian_steps import GaussianSteps
from elucid.training.samplers.base import Callback, Denoise, Noise, Sampler, state_and_steps


class DDPMSampler(Sampler):
    """x' = x0 + (sigma'/sigma)^2 (x - x0) + sqrt(v) z, z ~ N(0, 1), without noise in the step to 0; N evaluations.

    In the units of DDPM, v is beta-tilde ("small"), beta ("large") or the network's ("learned"); `variance` None is the
    denoiser's own. Classifier guidance shifts the mean by v times the gradient (Dhariwal & Nichol 2021, algorithm 1).
    `noise_scale` below 1 and `epsilon_scale` above 1 reduce the temperature
    (ibid., appendix G): they multiply the noise z and the predicted noise.
    """

    default_steps = 250
    default_schedule = "respaced"
    preview = "ddim"

    def __init__(
        self,
        variance: str | None = None,
        noise_scale: float = 1.0,
        epsilon_scale: float = 1.0,
    ):
        if variance not in (None, *VARIANCES):
            raise UserError(f"variance={variance!r} is unknown; choose from {', '.join(VARIANCES)}")
        self.variance = variance
        self.noise_scale, self.epsilon_scale = noise_scale, epsilon_scale

    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback | None = None
    ) -> Tensor:
        x, sigmas, is_zero = state_and_steps(x, sigmas)
        steps = GaussianSteps(sigmas)
        variance = self.variance or getattr(denoise, "variance", "small")
        for i in range(len(steps)):
            sigma, sigma_next = sigmas[i], sigmas[i + 1]
            prediction = denoise(x, sigma)
            x0 = prediction.x0
            if callback is not None:
                callback(x, sigma, x0)
            if prediction.guidance is not None:
                x0 = x0 - sigma**2 * prediction.guidance.to(x.dtype)
            if self.epsilon_scale != 1:
                x0 = x - self.epsilon_scale * (x - x0)
            mean = steps.posterior_mean(x, x0, i)
            v = None if prediction.var is None else prediction.var.to(x.dtype)
            log_variance = steps.log_variance(i, variance, v)
            if prediction.guidance is not None:
                # The variance is that of x' and the gradient that for x, whose scales in DDPM's units differ.
                growth = (1 + sigma**2) / (1 + sigma_next**2)
                mean = mean + growth.sqrt() * steps.variance(i, variance, v) * prediction.guidance.to(x.dtype)
            x = mean if is_zero[i + 1] else mean + self.noise_scale * (0.5 * log_variance).exp() * noise(x)
        return x
