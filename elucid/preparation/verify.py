"""Every image and label of a data set, checked; its size, classes and statistics."""

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar
from elucid.preparation.pool import available_cores
from elucid.training.data.dataset import ImageDataset, encoder_line, open_dataset
from elucid.training.data.pictures import DECODE_ERRORS, opened


@dataclass
class Verdict:
    """What a sound data set consists of. `mean` and `std` are per channel, over all pixels, 0 to 255 (or latents)."""

    dataset: ImageDataset
    mean: np.ndarray
    std: np.ndarray

    def lines(self) -> Iterator[str]:
        """The verdict in words."""
        dataset, labels = self.dataset, self.dataset.labels
        height, width = dataset.resolution
        latents, what = dataset.encoder, "latents" if dataset.encoder else "images"
        yield f"{what}: {len(dataset)}"
        yield f"size: {width}x{height}"
        if latents:
            yield f"channels: {len(self.mean)} (mean and standard deviation of each, {dataset.dtype})"
            yield encoder_line(latents)
        else:
            yield f"channels: {dataset.channels} ({'gray' if dataset.channels == 1 else 'RGB'})"
        if labels is None:
            yield "classes: none, the images have no labels"
        elif not labels.are_classes:
            yield f"labels: vectors of width {labels.dim}"
        else:
            yield f"classes: {labels.dim}"
            counts = np.bincount(labels.values[labels.values >= 0], minlength=labels.dim)
            names = labels.class_names or [""] * labels.dim
            yield from (
                f"  {i} {name}: {count}".replace(" :", ":")
                for i, (name, count) in enumerate(zip(names, counts, strict=True))
            )
        scale, unit = (latents["scale"], "times the factor") if latents else (1, "0 to 255")
        yield f"mean: {' '.join(f'{x * scale:.3f}' for x in self.mean)} (per channel, {unit})"
        yield f"std: {' '.join(f'{x * scale:.3f}' for x in self.std)}"
        if labels is not None and len(labels.missing):
            first = ", ".join(dataset.image_name(i) for i in labels.missing[:3])
            yield f"warning: {len(labels.missing)} images have no label (first: {first}); --cond=1 will refuse them"
        if not latents and (height % 8 or width % 8):
            yield "warning: networks need sides divisible by 8; convert it with dataset_tool.py --resolution=WxH"
        yield "every image and label is sound"


def verify(path: str | os.PathLike, workers: int | None = None, progress: bool = True) -> Verdict:
    """Decode every image and check every label. Raises UserError that counts and names the bad ones."""
    dataset = open_dataset(path, check=False, latents=True)
    sums = _picture_sums if dataset.encoder is None else _latent_sums
    total, squares, bad = 0, 0, []

    def check(index: int) -> tuple[np.ndarray, np.ndarray] | UserError:
        try:
            return sums(dataset, index)
        except UserError as error:
            return error

    with ThreadPoolExecutor(workers or available_cores()) as pool:
        results = pool.map(check, range(len(dataset)))
        for result in progress_bar(results, total=len(dataset), desc="verifying", disable=not progress, delay=0.5):
            if isinstance(result, UserError):
                bad.append(str(result))
            else:
                total, squares = total + result[0], squares + result[1]
    if bad:
        raise UserError(
            f"{len(bad)} of {len(dataset)} images are bad: {' | '.join(bad[:5])}{' | ...' * (len(bad) > 5)}; "
            "replace or remove them, or make the data set again with dataset_tool.py"
        )
    pixels = len(dataset) * np.prod(dataset.resolution)
    mean = total / pixels
    return Verdict(dataset, mean, np.sqrt(np.maximum(squares / pixels - mean**2, 0)))


def _picture_sums(dataset: ImageDataset, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Sums and sums of squares of each channel's pixels."""
    _require_intact(dataset, index)
    pixels = dataset.image(index).reshape(dataset.channels, -1).astype(np.int64)
    return pixels.sum(1), (pixels**2).sum(1)


def _latent_sums(dataset: ImageDataset, index: int) -> tuple[np.ndarray, np.ndarray]:
    """The same of samples of the posterior, by expectation."""
    mean, std = np.split(dataset.image(index).reshape(dataset.channels, -1).astype(np.float64), 2)
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std >= 0).all()):
        raise UserError(f"{dataset.image_name(index)} has values that are not finite or below 0; encode again")
    return mean.sum(1), (mean**2 + std**2).sum(1)


def _require_intact(dataset: ImageDataset, index: int) -> None:
    """The checksums inside a PNG, which decoding does not look at."""
    try:
        with opened(io.BytesIO(dataset.encoded(index))) as picture:
            picture.verify()
    except DECODE_ERRORS as error:
        raise UserError(f"{dataset.image_name(index)} is corrupt or truncated ({error})") from error
