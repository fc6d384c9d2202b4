"""How near restored images are to the truth: PSNR and SSIM."""

import csv
import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from elucid.api.evaluations.arrays.groups import count_groups, groups
from elucid.api.evaluations.arrays.opening import Given, Opened, open_pair
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable, write_output
from elucid.evaluation.bootstrap import bootstrap
from elucid.evaluation.results import Result, Table
from elucid.evaluation.similarity import psnr, range_of, require_ssim
from elucid.evaluation.similarity import ssim as structural

WORST = 10
"""Images in a table: those with the lowest PSNR."""


def restoration(
    images: Given,
    truth: Given,
    *,
    members: int = 1,
    num: int | None = None,
    channels: str | Sequence[str | int] | None = None,
    data_range: float | Sequence[float] | None = None,
    ssim: bool = True,
    seed: int = 0,
    per_image: str | os.PathLike | None = None,
    dest: str | os.PathLike | None = None,
    workers: int | None = None,
) -> Result:
    """Compare restored images with the truth by PSNR and SSIM (Wang et al. 2004), per image and on average.

    `images` are `members` consecutive ones for each of `truth`, of which the first `num` are used or all: folders,
    zips, npz files, arrays [N,C,H,W] or data sets; of several also their mean is compared. `data_range` is that of
    values, by default of the data's integer type: a number, or one for each channel. `per_image` (.csv) is a file for
    the values of each image. Intervals are over images of the truth. The value is the mean PSNR in decibels over images
    that are not exact. Raises UserError for sets that do not fit, floats without a range, images under 11 pixels with
    `ssim`, and NaN, with its place.
    """
    for path in (dest, per_image):
        if path is not None:
            require_writable(path)
    found, real = open_pair(("images", images), ("truth", truth), channels)
    count = count_groups(found, real, members, num)
    given = [float(data_range)] if isinstance(data_range, int | float) else data_range
    spans = range_of(real.dtype, None if given is None else list(given), len(real.channels))
    measures = {"PSNR": psnr} | ({"SSIM": structural} if ssim else {})
    if ssim:
        require_ssim(real.chosen_shape)
    values, means = [], []
    for group, one in groups(found, real, members, count, workers):
        values.append([[measure(image, one, spans) for measure in measures.values()] for image in group])
        if members > 1:
            mean = group.mean(0, dtype=np.float64)
            means.append([measure(mean, one, spans) for measure in measures.values()])
    measured = np.array(values)
    if np.isinf(measured[..., 0]).all():
        raise UserError(f"`images`: all of {found.path} are exactly those of {real.path}; check what was given")
    result = summarise(found, real, measured, np.array(means), list(measures), spans, seed)
    if per_image is not None:
        with write_output(per_image) as file:
            file.write(listed(found, real, measured, list(measures)))
    if dest is not None:
        result.save(dest)
    return result


def summarise(
    found: Opened,
    real: Opened,
    values: np.ndarray,
    means: np.ndarray,
    names: list[str],
    spans: np.ndarray,
    seed: int,
) -> Result:
    """Return the result of measures [N,K,M] of single images, and [N,M] of means of members, if there are several."""
    members = values.shape[1]
    sets = {"single images": values} | ({f"mean of {members} members": means[:, None]} if members > 1 else {})
    rows, limits, lines = [], {}, [f"{values.shape[0] * members} images, {values.shape[0]} of the truth"]
    for what, numbers in sets.items():
        for place, name in enumerate(names):
            value, low, high = limits[what, name] = mean_of(numbers[..., place], seed)
            least = None if value is None else float(numbers[..., place].min())
            rows.append((what, f"{name}, dB" if name == "PSNR" else name, value, low, high, least))
    if exact := int(np.isinf(values[..., 0]).sum()):
        lines.append(f"{exact} images are exactly the truth; their PSNR is infinite and not part of the mean")
    columns = ("of", "measure", "mean", "low", "high", "least")
    tables = [Table("Similarity to the truth, higher is better", columns, tuple(rows)), worst(found, values, names)]
    about: dict[str, Any] = {
        "images": found.path,
        "truth": real.path,
        "members": members,
        "channels": list(real.labels),
    }
    about |= {"data_range": spans.tolist(), "seed": seed}
    value, low, high = limits["single images", "PSNR"]
    assert value is not None  # as not all images are exact
    interval = None if low is None or high is None else (low, high)
    return Result("restoration", "psnr_db", value, interval, tuple(lines), tuple(tables), about=about)


def mean_of(numbers: np.ndarray, seed: int) -> tuple[float | None, float | None, float | None]:
    """Return the mean of what is finite of numbers [N,K], and its 95 % interval over the N; None for what is not."""
    finite = np.isfinite(numbers)
    kept = finite.any(1)
    if not kept.any():
        return None, None, None
    sums = np.stack([np.where(finite, numbers, 0).sum(1), finite.sum(1)], axis=1)[kept]
    value, low, high = (float(one[0]) for one in bootstrap(sums, lambda means: means[..., :1] / means[..., 1:], seed))
    return (value, None, None) if np.isnan(low) else (value, low, high)


def worst(found: Opened, values: np.ndarray, names: list[str]) -> Table:
    """Return the images with the lowest PSNR."""
    flat = values.reshape(-1, len(names))
    order = [index for index in np.argsort(flat[:, 0], kind="stable")[:WORST].tolist() if np.isfinite(flat[index, 0])]
    rows = tuple((found.name(index), *flat[index].tolist()) for index in order)
    return Table("Least similar images", ("image", *names), rows)


def listed(found: Opened, real: Opened, values: np.ndarray, names: list[str]) -> bytes:
    """Return a line for each image, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "truth", *names])
    for index, row in enumerate(values.reshape(-1, len(names)).tolist()):
        writer.writerow([found.name(index), real.name(index // values.shape[1]), *row])
    return text.getvalue().encode()
