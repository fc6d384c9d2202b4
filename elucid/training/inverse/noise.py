"""The noise of a measurement, as a Gaussian with a variance for each of its numbers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError


class MeasurementNoise(ABC):
    """Base class: y = A u + noise, in the units of y; approximated by value(y) = A u + N(0, variance(y))."""

    @abstractmethod
    def sample(self, clean: Tensor, noise: torch.Generator | None = None) -> Tensor:
        """Return a measurement [B,...] whose mean is `clean`."""

    @abstractmethod
    def value(self, y: Tensor) -> Tensor:
        """Return what takes the place of y."""

    @abstractmethod
    def variance(self, y: Tensor) -> Tensor:
        """Return the variance of each number, in the shape of y or one that broadcasts to it."""

    def require(self, y: Tensor) -> None:  # noqa: B027 - most can be any number
        """Raise UserError for a measurement that is impossible."""


class GaussianNoise(MeasurementNoise):
    """y ~ N(A u, std^2), `std` in the units of y, one or one for each entry of its first axis; 0 means that y is exact.

    Raises UserError for negative ones, and for another number of them than y has entries.
    """

    def __init__(self, std: float | Sequence[float] = 0.0):
        every = [float(one) for one in (std if isinstance(std, Sequence) else [std])]
        if not every or not all(0 <= one < math.inf for one in every):
            given = ",".join(f"{one:g}" for one in every)
            raise UserError(f"`measurement_noise`: std={given} must be finite numbers of at least 0, in units of y")
        self.std = every[0] if len(every) == 1 else every

    def sample(self, clean: Tensor, noise: torch.Generator | None = None) -> Tensor:
        return clean + self.variance(clean).sqrt() * torch.randn(clean.shape, generator=noise, dtype=clean.dtype)

    def value(self, y: Tensor) -> Tensor:
        return y

    def variance(self, y: Tensor) -> Tensor:
        if not isinstance(self.std, list):
            return y.new_full((1,) * y.ndim, self.std**2)
        return y.new_tensor(self.std).square().reshape(1, -1, *(1,) * (y.ndim - 2))

    def require(self, y: Tensor) -> None:
        if isinstance(self.std, list) and len(self.std) != y.shape[1]:
            raise UserError(
                f"`measurement_noise` has {len(self.std)} deviations, the measurement {y.shape[1]} channels; give one, "
                "or one for each"
            )


class PoissonNoise(MeasurementNoise):
    """y ~ Poisson(gain A u) / gain, for counts k = gain y, `gain` in counts per unit of y.

    As a Gaussian, k + min(k, 1) has the variance k + 1 (Mighell 1999, ApJ 518, 380): weighted by 1 / (k + 1), many
    counts of one rate m have the mean m exactly, not about m - 1 as with k and the variance max(k, 1); and k + 1 is
    both mean and variance of what one count k > 0 says of m by itself, as a density. Raises UserError unless the gain
    is positive, and for y < 0.
    """

    def __init__(self, gain: float):
        if not 0 < gain < math.inf:
            raise UserError(f"`measurement_noise`: gain={gain:g} must be above 0, in counts per unit of y")
        self.gain = float(gain)

    def sample(self, clean: Tensor, noise: torch.Generator | None = None) -> Tensor:
        return torch.poisson((self.gain * clean).clamp_min(0), generator=noise) / self.gain

    def value(self, y: Tensor) -> Tensor:
        return y + (self.gain * y).clamp(max=1) / self.gain

    def variance(self, y: Tensor) -> Tensor:
        return (self.gain * y + 1) / self.gain**2

    def require(self, y: Tensor) -> None:
        least = float(y.min())
        if least < 0:
            raise UserError(
                f"`measurement` has {least:g}, but Poisson noise leaves no negative numbers; subtract no background, "
                "or choose `measurement_noise`=gaussian:STD"
            )


NOISES: dict[str, type[MeasurementNoise]] = {"gaussian": GaussianNoise, "poisson": PoissonNoise}
"""The kinds of noise, by their names in `measurement_noise`."""
