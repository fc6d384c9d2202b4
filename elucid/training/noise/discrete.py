"""Discrete noise levels: the betas of DDPM as noise levels sigma, and those of improved DDPM in EDM's form."""

import math

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.choices import BETA_SCHEDULES


def betas(schedule: str, steps: int) -> Tensor:
    """Return beta_1..beta_T float64 [T] of the forward process q(x_t | x_(t-1)) = N(sqrt(1 - beta_t) x_(t-1), beta_t).

    linear: 1e-4 to 0.02 at T = 1000, both scaled by 1000/T (Ho et al. 2020); cosine: from
    abar(t) = cos^2((t/T + 0.008) / 1.008 pi/2), at most 0.999 (Nichol & Dhariwal 2021, eq. 17). Raises UserError for
    other names, and if a beta is not in (0, 1).
    """
    if schedule not in BETA_SCHEDULES:
        raise UserError(f"beta_schedule={schedule!r} is unknown; choose from {', '.join(BETA_SCHEDULES)}")
    if steps < 1:
        raise UserError(f"diffusion_steps={steps} must be at least 1; published: 1000 or 4000")
    if schedule == "linear":
        scale = 1000 / steps
        values = torch.linspace(scale * 1e-4, scale * 0.02, steps, dtype=torch.float64)
    else:
        t = torch.arange(steps + 1, dtype=torch.float64) / steps
        abar = ((t + 0.008) / 1.008 * math.pi / 2).cos() ** 2
        values = (1 - abar[1:] / abar[:-1]).clamp(max=0.999)
    return require_betas(values, f"beta_schedule={schedule} with diffusion_steps={steps}")


def require_betas(values: Tensor, what: str) -> Tensor:
    """Return the betas; raises UserError unless all lie in (0, 1)."""
    bad = values[~((values > 0) & (values < 1))]
    if len(bad):
        raise UserError(
            f"{what}: a beta of {float(bad[0]):g} is not between 0 and 1; use more `diffusion_steps`, or "
            "`beta_schedule`=cosine"
        )
    return values


def levels_of(values: Tensor) -> Tensor:
    """Return sigma_T > ... > sigma_1 > 0, float64 [T+1], with sigma_t^2 = (1 - abar_t) / abar_t.

    x_t / sqrt(abar_t) is then an image with noise of standard deviation sigma_t; abar_t is the product of 1 - beta.
    """
    log_abar = torch.log1p(-values.to(torch.float64)).cumsum(0)
    return torch.cat([torch.expm1(-log_abar).sqrt().flip(0), log_abar.new_zeros(1)])


def betas_between(sigmas: Tensor) -> Tensor:
    """Return the betas of steps along sigmas[0] > ... > sigmas[-1] >= 0: 1 - (1 + sigma_(i+1)^2) / (1 + sigma_i^2)."""
    sigma, sigma_next = sigmas[:-1], sigmas[1:]
    return (sigma - sigma_next) * (sigma + sigma_next) / (1 + sigma**2)


def nearest_level(levels: Tensor, sigma: Tensor) -> Tensor:
    """Return the index of the nearest level in `levels` [M], in the shape of sigma."""
    # torch.cdist may use a matrix product, which is less accurate.
    return (sigma.detach().to(levels.dtype).reshape(-1, 1) - levels).abs().argmin(1).reshape(sigma.shape)


def iddpm_levels(M: int, C_1: float, C_2: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the noise levels u_0 > ... > u_M = 0 of improved DDPM [M+1] (Karras et al. 2022, table 1)."""
    # abar and its ratios are always float32, as published; in float64 the smallest levels would differ by 5e-4.
    abar = (0.5 * math.pi * torch.arange(M + 1) / M / (C_2 + 1)).sin() ** 2
    ratios = (abar[:-1] / abar[1:]).clamp(min=C_1)
    levels = torch.zeros(M + 1, dtype=dtype)
    for j in range(M, 0, -1):
        levels[j - 1] = ((levels[j] ** 2 + 1) / ratios[j - 1] - 1).sqrt()
    return levels
