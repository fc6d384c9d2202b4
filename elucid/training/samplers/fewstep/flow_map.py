"""Steps of a flow map between any two noise levels."""

import torch
from torch import Tensor

from elucid.training.samplers.base import Callback, Denoise, Noise, Sampler, state_and_steps


class FlowMapSampler(Sampler):
    """x' = D + sigma' (x - D) / sigma, D = D(x; sigma, sigma') told of the level where the step ends; N evaluations.

    With a flow map, which is trained for it (condition `sigma_to`), each step is exact: x' is where the probability
    flow from x reaches sigma' (MeanFlow, arXiv 2505.13447; IMM, arXiv 2503.07565). Steps of others are Euler's.
    """

    from_pure_noise = True
    default_steps = 1
    default_schedule = "flow"

    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback | None = None
    ) -> Tensor:
        x, sigmas, is_zero = state_and_steps(x, sigmas)
        for i in range(len(sigmas) - 1):
            x0 = predicted(denoise, x, sigmas[i], sigmas[i + 1])
            if callback is not None:
                callback(x, sigmas[i], x0)
            x = x0 if is_zero[i + 1] else x0 + sigmas[i + 1] / sigmas[i] * (x - x0)
        return x


def predicted(denoise: Denoise, x: Tensor, sigma: Tensor, sigma_to: Tensor | float) -> Tensor:
    """Return x0 of a step from sigma to sigma_to, of which only a flow map is told."""
    spec = getattr(denoise, "spec", None)
    if spec is None or "sigma_to" not in spec.vector:
        return denoise(x, sigma).x0
    return denoise(x, sigma, {"sigma_to": torch.as_tensor(sigma_to, dtype=x.dtype).reshape(-1)}).x0
