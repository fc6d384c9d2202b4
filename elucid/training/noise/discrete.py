"""Discrete noise levels of the literature."""

import math

import torch
from torch import Tensor


def iddpm_levels(M: int, C_1: float, C_2: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the noise levels u_0 > ... > u_M = 0 of improved DDPM [M+1] (Karras et al. 2022, table 1)."""
    # abar and its ratios are always float32, as published; in float64 the smallest levels would differ by 5e-4.
    abar = (0.5 * math.pi * torch.arange(M + 1) / M / (C_2 + 1)).sin() ** 2
    ratios = (abar[:-1] / abar[1:]).clamp(min=C_1)
    levels = torch.zeros(M + 1, dtype=dtype)
    for j in range(M, 0, -1):
        levels[j - 1] = ((levels[j] ** 2 + 1) / ratios[j - 1] - 1).sqrt()
    return levels
