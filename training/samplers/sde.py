"""The reverse SDE of the process with sigma(t) = t, by Euler-Maruyama. Read next: `dpmpp2m.py`."""

from collections.abc import Callable

import torch
from torch import Tensor


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
