"""The reverse SDE of the process with sigma(t) = t, by Euler-Maruyama."""

from collections.abc import Callable

import torch
from torch import Tensor

from elucid.training.samplers.base import Denoise, Noise, Sampler, state_and_steps


class SDESampler(Sampler):
    """Euler-Maruyama on the reverse SDE, as in the paths of Daras et al. 2023; the step to 0 is D, without noise.

    N evaluations of order 1/2: it wants more steps than the samplers of the differential equation.
    """

    def __init__(
        self, num_steps: int = 128, sigma_min: float | None = None, sigma_max: float | None = None, rho: float = 7.0
    ):
        super().__init__(num_steps, sigma_min, sigma_max, rho)

    def __call__(self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise) -> Tensor:
        x, sigmas, is_zero = state_and_steps(x, sigmas)
        if not is_zero[-1]:
            return reverse_sde_path(denoise, x, sigmas, noise)
        return denoise(reverse_sde_path(denoise, x, sigmas[:-1], noise), sigmas[-2])


def reverse_sde_path(
    denoise: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    sigmas: Tensor,
    noise: Callable[[Tensor], Tensor] = torch.randn_like,
    first: Tensor | None = None,
) -> Tensor:
    """End of a path from x [B,C,H,W] through sigmas [N] or [N,B], largest first (Daras et al. 2023).

    x <- x + 2 (t' - t) (x - D(x; t)) / t + sqrt(2 t (t - t')) z, z = noise(x), one denoising per step, in float64 where
    the device has it. `first` gives D at the start where it is known already.
    """
    levels = sigmas.reshape(len(sigmas), -1, 1, 1, 1)
    x = x.to(levels.dtype)
    for index, (now, following) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        x0 = first if index == 0 and first is not None else denoise(x, now)
        drift = 2 * (following - now) * (x - x0.to(x.dtype)) / now
        x = x + drift + (2 * now * (now - following)).sqrt() * noise(x)
    return x
