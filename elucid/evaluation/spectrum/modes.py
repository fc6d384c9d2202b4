"""Fourier modes of images: power in rings of equal frequency, and products of channels in octaves."""

import math

import numpy as np

SECTORS = 4

LOWEST_OCTAVE = 6
"""Of which all lower frequencies are part."""


class Modes:
    """The modes of images [C,H,W], or of lines [C,1,W], whose frequency f is in cycles per pixel, up to 0.5 an axis.

    Power is a density: |FFT(w x)|^2 / sum w^2, so that white noise of variance s^2 has s^2 at all frequencies, and
    without a window the mean over all modes is the variance of a field (Parseval). Rings are as wide as the lowest
    frequency of the longer side; ring n is at n / max(H, W). A field's own mean, weighted by w, is removed first.
    """

    def __init__(self, height: int, width: int, window: str = "hann"):
        self.size, self.longest = height * width, max(height, width)
        self.lines = min(height, width) == 1
        self.window = np.outer(_window(window, height), _window(window, width))
        fy, fx = np.broadcast_arrays(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
        f = np.hypot(fy, fx).reshape(-1)
        inner = (np.arange(width // 2 + 1) > 0) & (2 * np.arange(width // 2 + 1) < width)
        self.counts = np.broadcast_to(1 + inner, (height, width // 2 + 1)).reshape(-1).astype(np.float64)
        self._ring = np.rint(f * self.longest).astype(np.int64)
        self.ring_counts = np.bincount(self._ring, self.counts)
        self.frequencies = np.arange(self.longest // 2 + 1)[1:] / self.longest
        octave = np.floor(-np.log2(np.maximum(f, 0.25 / self.longest)) + 1e-9).astype(np.int64)
        lowest = min(LOWEST_OCTAVE, max(1, math.floor(math.log2(self.longest))))
        octave = np.where(f > 0, np.minimum(octave, lowest), 0)
        self.octaves = tuple(one for one in range(1, lowest + 1) if (octave == one).any())
        # Modes without fx are there with their conjugates, but for the highest; one of both counts.
        once = (2 * (fy > 0) + (fy == -0.5)).reshape(-1)
        self._weights = np.where((fx == 0).reshape(-1), once, self.counts)
        sector = (2 * (fy < 0) + (np.abs(fy) >= fx)).reshape(-1)
        self._cells = [
            [np.flatnonzero((octave == one) & (sector == part)) for part in range(SECTORS)] for one in self.octaves
        ]

    def transform(self, image: np.ndarray) -> np.ndarray:
        """Return the modes [C,M] of an image [C,H,W], scaled so that |.|^2 is the density of power."""
        from scipy.fft import rfft2  # here, as help should not wait for scipy

        field = image.astype(np.float64)
        mean = (field * self.window).sum((-2, -1), keepdims=True) / self.window.sum()
        modes = rfft2((field - mean) * self.window, axes=(-2, -1))
        return modes.reshape(len(image), -1) / math.sqrt((self.window**2).sum())

    def rings(self, modes: np.ndarray) -> np.ndarray:
        """Return the mean power [C,R] of all rings, in the corners too, from ring 0, the mean."""
        power = (np.abs(modes) ** 2) * self.counts
        return np.stack([np.bincount(self._ring, one) for one in power]) / self.ring_counts

    def shown(self, rings: np.ndarray) -> np.ndarray:
        """Return the rings [...,F] of `frequencies`: above 0 and up to 0.5, where they are whole circles."""
        return rings[..., 1 : len(self.frequencies) + 1]

    def products(self, modes: np.ndarray) -> np.ndarray:
        """Return the sums c128[O,SECTORS,C,C] of products of channels, in sectors of each octave.

        A sector is an eighth of the plane with its opposite: within it derivatives have one phase.
        """
        found = np.empty((len(self._cells), SECTORS, len(modes), len(modes)), dtype=np.complex128)
        for octave, sectors in enumerate(self._cells):
            for sector, part in enumerate(sectors):
                found[octave, sector] = (modes[:, part] * self._weights[part]) @ modes[:, part].conj().T
        return found


def coherence(products: np.ndarray) -> np.ndarray:
    """Return the magnitude-squared coherence [...,C,C] of sums of products [...,SECTORS,C,C], from 0 to 1.

    sum_s |S_ab,s|^2 / sum_s S_aa,s S_bb,s over sectors s; NaN where a channel has no power.
    """
    own = np.diagonal(products, axis1=-2, axis2=-1).real
    both = (own[..., :, None] * own[..., None, :]).sum(-3)
    return np.divide((np.abs(products) ** 2).sum(-3), both, out=np.full(both.shape, np.nan), where=both > 0)


def octave_text(octave: int, lowest: int) -> str:
    """Return the frequencies of an octave in words: `1/8 to 1/4`."""
    start = "0" if octave == lowest else f"1/{2 ** (octave + 1)}"
    return f"{start} to 1/{2**octave}"


def _window(name: str, length: int) -> np.ndarray:
    """Return a window [length]; along a side of one pixel there is none."""
    if name == "none" or length == 1:
        return np.ones(length)
    return np.sin(np.pi * (np.arange(length) + 0.5) / length) ** 2
