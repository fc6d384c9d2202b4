"""Euler-Maruyama solver for the reverse SDE with sigma(t) = t."""

import torch
from torch import Tensor

from elucid.training.samplers.base import Callback, Denoise, Noise, Sampler, estimate, state_and_steps


class SDESampler(Sampler):
    """Euler-Maruyama on the reverse SDE, as in Daras et al. 2023; the step to 0 returns D, without noise.

    N evaluations. Strong order 1/2, weak order 1, so it needs more steps than the ODE samplers.
    """

    default_steps = 128
    preview = "edm"

    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback | None = None
    ) -> Tensor:
        x, sigmas, is_zero = state_and_steps(x, sigmas)
        if not is_zero[-1]:
            return reverse_sde_path(denoise, x, sigmas, noise, callback=callback)
        x = reverse_sde_path(denoise, x, sigmas[:-1], noise, callback=callback)
        return estimate(denoise, x, sigmas[-2], callback)


def reverse_sde_path(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    noise: Noise = torch.randn_like,
    first: Tensor | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Return the end of a path from x [B,C,H,W] through sigmas [N] or [N,B], largest first (Daras et al. 2023).

    x <- x + 2 (t' - t) (x - D(x; t)) / t + sqrt(2 t (t - t')) z, z = noise(x); one evaluation per step, in float64
    where the device supports it. `first` is D at the start, if already known.
    """
    levels = sigmas if sigmas.ndim == 1 else sigmas.reshape(len(sigmas), -1, 1, 1, 1)
    x = x.to(levels.dtype)
    for index, (now, following) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
        known = index == 0 and first is not None
        x0 = first if known else estimate(denoise, x, now, callback)
        drift = 2 * (following - now) * (x - x0.to(x.dtype)) / now
        x = x + drift + (2 * now * (now - following)).sqrt() * noise(x)
    return x
