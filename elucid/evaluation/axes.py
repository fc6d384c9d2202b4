"""Axes of charts: the range that is shown, positions on it, and round numbers as ticks."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

LARGEST = 1e100
"""Numbers of larger magnitude are not drawn."""


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic axis from `low` to `high`."""

    low: float
    high: float
    log: bool = False

    def shows(self, value: float) -> bool:
        """Return whether a value has a place on an axis of this kind."""
        return drawable(value, self.log)

    def place(self, value: float) -> float:
        """Return the position of a value, 0 at `low` and 1 at `high`."""
        if self.log:
            low, high = math.log10(self.low), math.log10(self.high)
            return (math.log10(value) - low) / (high - low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Return round numbers on the axis, about five."""
        found = list(self._decades() if self.log else _round_numbers(self.low, self.high))
        if len(found) < 2:  # a logarithmic axis within a decade
            found = list(_round_numbers(self.low, self.high))
        return found

    def _decades(self) -> Iterator[float]:
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        span = math.log10(self.high) - math.log10(self.low)
        digits = (1, 2, 5) if span <= 2 else (1, 3) if span <= 3 else (1,)
        for exponent in range(first, last + 1, max(1, round(span / 6))):
            for digit in digits:
                value = float(f"{digit}e{exponent}")
                if self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9):
                    yield value


def drawable(value: float, log: bool = False) -> bool:
    """Return whether a value is finite and not too large to draw; on a logarithmic axis it must be above 0."""
    return abs(value) < LARGEST and (not log or value > 1 / LARGEST)


def axis(values: Iterable[float], log: bool = False, margin: float = 0.0) -> Axis:
    """Return the axis that holds all values that can be drawn, with a `margin` as a fraction of its length.

    A linear axis with a margin starts at 0 if the smallest value is not far above it.
    """
    shown = [value for value in values if drawable(value, log)]
    if not shown:
        return Axis(1.0, 10.0, True) if log else Axis(0.0, 1.0)
    low, high = min(shown), max(shown)
    if log:
        if high / low < 1.01:
            return Axis(low / 1.5, high * 1.5, True)
        room = (high / low) ** margin
        return Axis(low / room, high * room, True)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = max(abs(low) * 0.1, 1e-9) if low else 1.0
        return Axis(low - room, high + room)
    room = margin * (high - low)
    at_zero = margin > 0 and 0 <= low < 0.4 * high
    return Axis(0.0 if at_zero else low - room, high + room)


def _round_numbers(low: float, high: float) -> Iterator[float]:
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(digit for digit in (1, 2, 5, 10) if digit * power >= rough * 0.7)
    for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1):
        yield float(f"{index * step:.12g}")


def number(value: float, digits: int = 4) -> str:
    """Format a number of a chart with at least `digits` digits: `0.0123`, `12000`, `1.5e-7`."""
    if 1 <= abs(value) < 1e6:
        text = f"{value:.{max(digits - len(str(int(abs(value)))), 0)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, e, exponent = f"{value:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa
