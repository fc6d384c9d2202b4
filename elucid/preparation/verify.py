"""Verifies all images and labels of a dataset, and reports size, classes, statistics and suggested noise levels."""

import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar
from elucid.preparation.fields.verify import ArrayVerdict, verify_arrays
from elucid.preparation.noise_proposal import propose
from elucid.preparation.pool import available_cores
from elucid.training.data.dataset import ImageDataset, open_dataset
from elucid.training.data.latents import as_flags, encoder_line
from elucid.training.data.pictures import DECODE_ERRORS, opened, require_size
from elucid.training.data.statistics import channel_sums, from_sums, moments_of
from elucid.training.encoders.statistics import ChannelStatistics


@dataclass(repr=False)
class Verdict:
    """Result of a successful verification. `mean` and `std` are per channel over all pixels, 0 to 255 (or latents).

    `overall` is the mean and standard deviation over all channels, as seen by the network.
    """

    dataset: ImageDataset
    mean: np.ndarray
    std: np.ndarray
    overall: tuple[float, float]

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report."""
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
        yield from self._channel_lines()
        yield from self._noise_lines()
        if labels is not None and len(labels.missing):
            first = ", ".join(dataset.image_name(i) for i in labels.missing[:3])
            yield f"warning: {len(labels.missing)} images have no label (first: {first}); --cond=1 will reject them"
        if not latents and (height % 8 or width % 8):
            yield "warning: networks need sides divisible by 8; convert it with dataset_tool.py --resolution=WxH"
        yield "all images and labels are valid"

    def _channel_lines(self) -> Iterator[str]:
        """Yield mean and standard deviation per channel, and of latents the options that normalise each channel."""
        latents, unit = self.dataset.encoder, "0 to 255"
        scale, shift, mean, std = 1, 0, self.mean, self.std
        if latents and (statistics := ChannelStatistics.of(latents)):
            shift, scale, unit = np.array(statistics.mean), np.array(statistics.factors), "normalised by the statistics"
        elif latents:
            scale, unit = latents["scale"], "times the scale factor"
        yield f"mean: {' '.join(f'{x:.3f}' for x in (mean - shift) * scale)} (per channel, {unit})"
        yield f"std: {' '.join(f'{x:.3f}' for x in std * scale)}"
        if latents and std.min() > 0:
            yield f"statistics of the latents as they are, for train.py: {as_flags(mean, std)}"

    def _noise_lines(self) -> Iterator[str]:
        """Yield the standard deviation as seen by the network, and suggested noise levels."""
        mean, std = self.overall
        latents = self.dataset.encoder
        seen = "scaled latents, before the VAE's shift if it has one" if latents else "in [-1, 1]"
        if latents and latents.get("mean"):
            seen = "normalised latents"
        yield f"all channels together: mean {mean:.4f}, std {std:.4f} ({seen})"
        sigma_data = float(f"{std:.2g}")
        if sigma_data == 0:
            yield "warning: all pixels are equal, so no noise levels are suggested"
            return
        yield from propose(self.dataset.resolution, sigma_data).lines()
        if self.dataset.encoder:
            yield "  latents are less smooth than images: if they are larger than 64, also try less noise"


def verify(path: str | os.PathLike, workers: int | None = None, progress: bool = True) -> Verdict | ArrayVerdict:
    """Decode all images and check all labels. Raises UserError that counts and names invalid ones."""
    dataset = open_dataset(path, check=False, latents=True, arrays=True)
    if dataset.arrays is not None:
        return verify_arrays(dataset, workers or available_cores(), progress)
    total, squares, bad = 0, 0, []

    def check(index: int) -> tuple[np.ndarray, np.ndarray] | UserError:
        try:
            if dataset.encoder is None:
                _require_intact(dataset, index)
            return channel_sums(dataset, index)
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
            "replace or remove them, or create the dataset again with dataset_tool.py"
        )
    pixels = len(dataset) * np.prod(dataset.resolution)
    return Verdict(dataset, *moments_of(total, squares, pixels), from_sums(dataset, total, squares))


def _require_intact(dataset: ImageDataset, index: int) -> None:
    """Verify the checksums in a PNG, which decoding ignores."""
    try:
        with opened(io.BytesIO(dataset.encoded(index))) as picture:
            require_size(picture.size, dataset.image_name(index))
            picture.verify()
    except Image.DecompressionBombError as error:
        raise UserError(f"{dataset.image_name(index)} has too many pixels ({error})") from error
    except DECODE_ERRORS as error:
        raise UserError(f"{dataset.image_name(index)} is corrupt or truncated ({error})") from error
