"""Multistep consistency sampling (Song et al. 2023, arXiv 2303.01469, algorithm 1)."""

from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.samplers.base import Callback, Denoise, Noise, Sampler, state_and_steps
from elucid.training.samplers.fewstep.flow_map import predicted


class ConsistencySampler(Sampler):
    """x0 = D(x; sigma), x' = x0 + sqrt(sigma'^2 - sigma_end^2) z: one evaluation and new noise in each step.

    D of a consistency model is where the probability flow from x ends, so that one step is enough; further ones repair
    what it lacks. `sigma_end` is the level that its flow ends at: 0, or 0.002 in the paper. A flow map jumps to 0 in
    each step ("restart").
    """

    from_pure_noise = True
    default_steps = 1

    def __init__(self, sigma_end: float = 0.0):
        if sigma_end < 0:
            raise UserError(f"sampler.sigma_end={sigma_end:g} must not be negative")
        self.sigma_end = sigma_end

    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback | None = None
    ) -> Tensor:
        x, sigmas, is_zero = state_and_steps(x, sigmas)
        for i in range(len(sigmas) - 1):
            x0 = predicted(denoise, x, sigmas[i], 0.0)
            if callback is not None:
                callback(x, sigmas[i], x0)
            x = x0
            if not is_zero[i + 1]:
                x = x + (sigmas[i + 1] ** 2 - self.sigma_end**2).clamp_min(0).sqrt() * noise(x)
        return x
