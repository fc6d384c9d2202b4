"""Whether samples have the power of the data at each scale, and whether their channels belong together."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from elucid.api.evaluations.arrays.opening import Given, Opened, open_pair
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable, write_output
from elucid.dnnlib.progress import progress_bar
from elucid.evaluation.results import Result
from elucid.evaluation.spectrum.collect import Spectra
from elucid.evaluation.spectrum.modes import Modes
from elucid.evaluation.spectrum.names import WINDOWS
from elucid.evaluation.spectrum.plot import plot as drawn
from elucid.evaluation.spectrum.summary import summarise


def spectrum(
    images: Given,
    data: Given,
    *,
    num: int | None = None,
    seed: int = 0,
    channels: str | Sequence[str | int] | None = None,
    window: str = "hann",
    plot: str | os.PathLike | None = None,
    dest: str | os.PathLike | None = None,
    workers: int | None = None,
) -> Result:
    """Compare the power spectra of samples with those of data, per channel, and correlation and coherence of channels.

    `images` and `data` are folders, zips, npz files, arrays [N,C,H,W] or data sets; at most `num` of each are chosen by
    `seed`. Spectra are radial averages, of lines [C,1,W] plain ones, in the data's own units squared; `window` is
    "hann", or "none" for fields that are periodic. The value is the root mean square over frequencies and channels of
    10 log10 of the ratio of power, corrected for the number of images. `plot` (.svg) is a file for the
    charts. Raises UserError for sets that do not fit, or have fewer than two images, and NaN, with its place.
    """
    for path in (dest, plot):
        if path is not None:
            require_writable(path)
    if plot is not None and not os.fspath(plot).endswith(".svg"):
        raise UserError(f"`plot`={plot} must end in .svg")
    if window not in WINDOWS:
        raise UserError(f"`window`={window} is unknown; choose from {', '.join(WINDOWS)}")
    sets = open_pair(("images", images), ("data", data), channels)
    height, width = sets[0].shape[1:]
    if height * width == 1:
        raise UserError(f"`images`: {sets[0].path} has images of one pixel, which have no spectrum")
    modes = Modes(height, width, window)
    samples, real = (collected(one, modes, num, seed, workers) for one in sets)
    result = summarise(samples, real, sets[1].labels)
    about: dict[str, Any] = {"images": sets[0].path, "data": sets[1].path, "window": window, "seed": seed}
    result = replace(result, about={**about, **result.about})
    if dest is not None:
        result.save(dest)
    if plot is not None:
        with write_output(plot) as file:
            file.write(drawn(result.curves).encode() + b"\n")
    return result


def collected(images: Opened, modes: Modes, num: int | None, seed: int, workers: int | None) -> Spectra:
    """Return the spectra of at most `num` images."""
    total = len(images) if num is None else min(num, len(images))
    if total < 2:
        raise UserError(f"`{images.what}`: {total} image of {images.path} is too few; an error takes at least 2")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(images))[:total]).tolist()
    found = Spectra(modes, len(images.channels))
    for image in progress_bar(images.stream(chosen, workers), total=total, desc=f"spectra of {images.what}", delay=1):
        found.add(image)
    return found
