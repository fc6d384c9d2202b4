"""Profiles of weight averages: how much each moment of the training counts, and which averages follow from others.

An average at time T (images seen) is the integral of p(tau) theta(tau) over the training, p being its profile, with
integral 1; less if it holds a share of the first weights, as half-lives without a ramp-up do early in a training. The
profile of power functions is that of Karras et al. 2024 (arXiv 2312.02696, section 3). Float64, numpy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.integrate import quad

from elucid.dnnlib.errors import UserError

WIDEST = 1 / math.sqrt(12)
"""The relative deviation of the power function with exponent 0, a mean over all of the training."""


def std_to_exponent(std: float) -> float:
    """Return gamma of p(tau) ~ tau^gamma with this relative standard deviation: a root of

    gamma^3 + 7 gamma^2 + (16 - std^-2) gamma + 12 - std^-2 = 0. Raises UserError unless 0 < std < 0.288.
    """
    if not 0 < std < WIDEST:
        raise UserError(f"{std:g} is no relative length of a power-function average; give numbers from 0.01 to 0.28")
    inverse = std**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def exponent_to_std(exponent: float) -> float:
    """Return the standard deviation of p(tau) ~ tau^gamma, in units of T."""
    return math.sqrt((exponent + 1) / ((exponent + 2) ** 2 * (exponent + 3)))


@dataclass(frozen=True)
class Piece:
    """A part of a profile: size * (tau / end)^rate, or size * exp(rate (tau - end) / end), from `start` to `end`."""

    exponential: bool
    size: float
    rate: float
    start: float
    end: float

    def __call__(self, tau: float) -> float:
        part = tau / self.end
        return self.size * (math.exp(self.rate * (part - 1)) if self.exponential else part**self.rate)


@dataclass(frozen=True)
class Profile:
    """The profile of an average, in pieces."""

    pieces: tuple[Piece, ...]

    def __call__(self, tau: float) -> float:
        """Return its density at an image count."""
        return sum(piece(tau) for piece in self.pieces if piece.start <= tau <= piece.end)

    @property
    def integral(self) -> float:
        """What is not 1 is the share of the first weights."""
        total = 0.0
        for one in self.pieces:
            if one.exponential:
                total += one.size * one.end / one.rate * -math.expm1(one.rate * (one.start / one.end - 1))
            else:
                total += one.size * one.end / (one.rate + 1)
        return total


def power(std: float, nimg: float) -> Profile:
    """Return the profile (gamma + 1) / T (tau / T)^gamma, T = nimg, of a power function with this relative length."""
    exponent = std_to_exponent(std)
    return Profile((Piece(False, (exponent + 1) / nimg, exponent, 0.0, nimg),))


def halflife(images: float, nimg: float, rampup_ratio: float | None = None) -> Profile:
    """Return the profile of an average with a half-life at T = nimg: ln 2 / h 2^((tau - T) / h).

    Without a ramp-up, a share 2^(-T / h) is that of the first weights and not in it. While the half-life is
    `rampup_ratio` times the images seen, it is a power function with gamma + 1 = ln 2 / ratio.
    """
    images = max(images, 1e-6 * nimg)
    ramped = nimg if rampup_ratio is None else min(images / rampup_ratio, nimg)
    start = 0.0 if rampup_ratio is None else ramped
    left = 0.5 ** ((nimg - start) / images)
    pieces = []
    if rampup_ratio is not None:
        exponent = math.log(2) / rampup_ratio - 1
        pieces.append(Piece(False, left * (exponent + 1) / ramped, exponent, 0.0, ramped))
    if start < nimg:
        pieces.append(Piece(True, math.log(2) / images, math.log(2) * nimg / images, start, nimg))
    return Profile(tuple(pieces))


def inner(one: Profile, other: Profile) -> float:
    """Return the integral of the product of two profiles."""
    return sum(_inner(a, b) for a in one.pieces for b in other.pieces)


def _inner(a: Piece, b: Piece) -> float:
    start, end = max(a.start, b.start), min(a.end, b.end)
    if start >= end:
        return 0.0
    if not a.exponential and not b.exponential and start == 0:
        a, b = (a, b) if a.end <= b.end else (b, a)
        return a.size * b.size * a.end / (a.rate + b.rate + 1) * (a.end / b.end) ** b.rate
    if a.exponential and b.exponential:
        slope = a.rate / a.end + b.rate / b.end
        return a(end) * b(end) * -math.expm1(slope * (start - end)) / slope
    # The product rises towards its end; most of it lies within a few of its lengths there.
    length = 1 / (a.rate / a.end + b.rate / b.end)
    places = [place for place in (end - 40 * length, end - 8 * length, end - 2 * length) if place > start]
    return quad(lambda tau: a(tau) * b(tau), start, end, points=places or None, limit=400, epsabs=0, epsrel=1e-10)[0]


def coefficients(sources: Sequence[Profile], targets: Sequence[Profile]) -> np.ndarray:
    """Return the factors [sources, targets] whose sums of sources are nearest to the targets, scaled to sum 1."""
    known = np.array([[inner(one, other) for other in sources] for one in sources])
    wanted = np.array([[inner(one, target) for target in targets] for one in sources])
    try:
        solved = np.linalg.solve(known, wanted)
    except np.linalg.LinAlgError:  # two sources are the same
        solved = np.linalg.lstsq(known, wanted, rcond=1e-12)[0]
    return solved / solved.sum(axis=0)


def distance(sources: Sequence[Profile], factors: np.ndarray, target: Profile) -> float:
    """Return |sum_i factors_i source_i - target| / |target|, the norm being that of the square integral."""
    known = np.array([[inner(one, other) for other in sources] for one in sources])
    wanted = np.array([inner(one, target) for one in sources])
    size = inner(target, target)
    return math.sqrt(max(factors @ known @ factors - 2 * factors @ wanted + size, 0.0) / size)
