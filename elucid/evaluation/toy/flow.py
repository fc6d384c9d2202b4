"""Where the probability flow of a known density takes points: the map that models of few steps learn."""

import math

import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from elucid.evaluation.toy.mixture import Mixture

KNEE = 0.02
"""About the width of the thinnest parts: above it steps are even in ln(sigma), below it in sigma."""


def flowed(mixture: Mixture, points: Tensor, sigma: float, sigma_to: float = 0.0, tolerance: float = 1e-10) -> Tensor:
    """Return where dx/dsigma = -sigma score(x; sigma) takes points [N,2] from sigma to sigma_to, f64[N,2].

    (Karras et al. 2022, eq. 1.) It is solved in asinh(sigma / KNEE), in which the slope is smooth down to 0, by an
    eighth-order method (DOP853), with absolute and relative `tolerance`.
    """
    ends = [math.asinh(level / KNEE) for level in (sigma, sigma_to)]

    def slope(place: float, flat) -> Tensor:
        level = KNEE * math.sinh(place)
        rate = -level * KNEE * math.cosh(place)
        return (rate * mixture.score(torch.from_numpy(flat).reshape(-1, 2), level)).flatten().numpy()

    start = points.double().flatten().numpy()
    solved = solve_ivp(slope, ends, start, method="DOP853", rtol=tolerance, atol=tolerance)
    return torch.from_numpy(solved.y[:, -1].copy()).reshape(-1, 2)
