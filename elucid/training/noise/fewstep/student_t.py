"""Noise levels whose logarithm has Student's t distribution, cut off at both ends (Lee et al. 2024, 2410.14895)."""

import math

import numpy as np
import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.distributions import NoiseDistribution

TABLE = 1 << 14
"""Quantiles between which levels are interpolated, so that a device that draws them waits for no host."""


class TruncatedStudentT(NoiseDistribution):
    """sigma = exp(P_mean + P_std T), T of Student's distribution with `df` degrees, given `low` <= sigma <= `high`.

    With the published df of 0.01 ln sigma is nearly uniform over the logarithm of its distance from P_mean. Raises
    UserError for impossible numbers.
    """

    def __init__(self, P_mean: float = 0.0, P_std: float = 0.2, df: float = 0.01, low: float = 1.0, high: float = 80.0):
        if not P_std > 0 or not df > 0 or not 0 < low < high:
            raise UserError(f"P_std={P_std:g}, df={df:g} must be above 0, low={low:g} above 0 and below high={high:g}")
        self.P_mean, self.P_std, self.df, self.low, self.high = P_mean, P_std, df, low, high
        self.table: Tensor | None = None

    def quantiles(self, shares: np.ndarray) -> np.ndarray:
        """Return the levels below which these shares of all draws lie, float64."""
        from scipy.stats import t as student  # takes half a second to import

        ends = [(math.log(end) - self.P_mean) / self.P_std for end in (self.low, self.high)]
        first, last = student.cdf(ends, self.df)
        return np.exp(self.P_mean + self.P_std * student.ppf(first + (last - first) * shares, self.df))

    def sample(self, count: int, denoiser, device) -> Tensor:
        if self.table is None or self.table.device != torch.device(device):
            levels = self.quantiles(np.linspace(0, 1, TABLE + 1)).clip(self.low, self.high)
            self.table = torch.from_numpy(np.log(levels)).to(device, torch.float32)
        place = torch.rand(count, 1, 1, 1, device=device) * TABLE
        index = place.long().clamp(max=TABLE - 1)
        return torch.lerp(self.table[index], self.table[index + 1], place - index).exp()
