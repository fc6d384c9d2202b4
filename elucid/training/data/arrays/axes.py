"""Axes of stored arrays, as letters N, C, H, W, and samples [C,H,W] of them."""

from dataclasses import dataclass

import numpy as np

from elucid.dnnlib.errors import UserError, note

_DEFAULTS = {4: "NCHW", 3: "NHW"}
_FEW = 4
"""Channels of pictures: last axes up to this length look like channels."""


@dataclass(frozen=True)
class Axes:
    """The axes of an array of samples by their letters; N is the first, W is there, C and H may be absent.

    What is absent has length 1 in a sample [C,H,W]: spectra [N,C,W] are images of one row.
    """

    letters: str

    def __post_init__(self):
        known = len(set(self.letters)) == len(self.letters) and set(self.letters) <= set("NCHW")
        if not known or not self.letters.startswith("N") or "W" not in self.letters:
            raise UserError(
                f"`axes`={self.letters} must be letters of NCHW, each once, N first and W among them, as NCHW, NHWC, "
                "NHW or NCW"
            )

    def sample_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """Return [C,H,W] of the samples of an array."""
        sides = dict(zip(self.letters, shape, strict=True))
        return sides.get("C", 1), sides.get("H", 1), sides["W"]

    def sample(self, row: np.ndarray) -> np.ndarray:
        """Return a row of the array, without N, as [C,H,W]; nothing is copied."""
        inner = self.letters[1:]
        order = [inner.index(letter) for letter in "CHW" if letter in inner]
        moved = row.transpose(order)
        return moved.reshape(self.sample_shape((1, *row.shape))) if len(inner) < 3 else moved


def axes_of(shape: tuple[int, ...], given: str | None, where: str, hint: str) -> Axes:
    """Return the axes of an array: those given, or else [N,C,H,W] of four and [N,H,W] of three.

    `hint` is the option as it is written. Raises UserError if they do not fit the shape, and for an array that looks
    like [N,H,W,C].
    """
    if given is not None:
        axes = Axes(given.upper())
        if len(axes.letters) != len(shape):
            raise UserError(f"{where} has {len(shape)} axes, {list(shape)}, and {hint}={given} {len(axes.letters)}")
        return axes
    if len(shape) not in _DEFAULTS:
        raise UserError(
            f"{where} has {len(shape)} axes, {list(shape)}; samples are [N,C,H,W] or [N,H,W], others are told by "
            f"{hint}, as {hint}=NW"
        )
    if len(shape) == 4 and shape[3] <= _FEW < min(shape[1:3]):
        raise UserError(
            f"{where} is {list(shape)}, where the last axis looks like channels; give {hint}=NHWC if it is, "
            f"else {hint}=NCHW"
        )
    if len(shape) == 3:
        note(f"{where}: {list(shape)} is read as [N,H,W], one channel; spectra [N,C,W] need {hint}=NCW")
    return Axes(_DEFAULTS[len(shape)])
