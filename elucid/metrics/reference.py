"""Reference statistics as npz files, compatible with EDM's in both directions.

Keys: `mu` f64[D], `sigma` f64[D,D] (unbiased covariance), and in our own files also `num_images`, `detector`,
`detector_sha256`, `resize`.
"""

import os
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from elucid.dnnlib import files
from elucid.dnnlib.errors import UserError
from elucid.metrics.detectors import Detector
from elucid.metrics.statistics import FeatureStatistics
from elucid.torch_utils import distributed

EDM_DETECTOR, EDM_DIM = "inception", 2048


@dataclass
class Reference:
    """Mean f64[D] and covariance f64[D,D] of a set of images; fields that EDM's files lack are None."""

    path: str
    mean: Tensor
    covariance: Tensor
    detector: str
    detector_sha256: str | None = None
    resize: str | None = None
    num_images: int | None = None

    @property
    def count(self) -> str:
        """The number of images as text."""
        return "an unknown number of" if self.num_images is None else str(self.num_images)


def save_reference(path: str | os.PathLike, statistics: FeatureStatistics, detector: Detector) -> None:
    """Write the statistics and the identity of the detector to a file, atomically."""
    arrays = {
        "mu": statistics.mean.cpu().numpy(),
        "sigma": statistics.covariance.cpu().numpy(),
        "num_images": np.int64(statistics.num),
        "detector": np.array(detector.name),
        "detector_sha256": np.array(detector.sha256),
        "resize": np.array(detector.resize),
    }
    with files.write_output(path) as file:
        np.savez(file, **arrays)


def load_reference(name: str) -> Reference:
    """Load a reference from a path or URL. Raises UserError naming the file if it is invalid or damaged."""
    path = files.fetch(name, "reference")
    if not zipfile.is_zipfile(path):
        raise UserError(f"{name}: not a readable npz file; create it again with fid.py ref")
    arrays = _read_arrays(path, name)
    mean, covariance = arrays.get("mu"), arrays.get("sigma")
    if mean is None or covariance is None:
        raise UserError(f"{name}: not a reference, as it lacks mu and sigma; create one with fid.py ref")
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise UserError(
            f"{name}: mu {mean.shape} and sigma {covariance.shape} do not fit; create it again with fid.py ref"
        )
    if not all(np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all() for array in (mean, covariance)):
        raise UserError(f"{name}: mu or sigma has values that are not finite; create it again with fid.py ref")
    reference = Reference(
        path=str(name),
        mean=torch.from_numpy(mean.astype(np.float64)),
        covariance=torch.from_numpy(covariance.astype(np.float64)),
        detector=str(arrays["detector"]) if "detector" in arrays else EDM_DETECTOR,
        detector_sha256=str(arrays["detector_sha256"]) if "detector_sha256" in arrays else None,
        resize=str(arrays["resize"]) if "resize" in arrays else None,
        num_images=int(arrays["num_images"]) if "num_images" in arrays else None,
    )
    if "detector" not in arrays:
        _take_as_edm(reference)
    return reference


def _read_arrays(path: Path, name: str) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name}: not a readable npz file ({reason}); create it again with fid.py ref") from error


def _take_as_edm(reference: Reference) -> None:
    dim = len(reference.mean)
    if dim != EDM_DIM:
        raise UserError(
            f"{reference.path}: has {dim} dimensions, not {EDM_DIM}, and does not say which detector made it; "
            "create it again with fid.py ref"
        )
    note = f"note: {reference.path} does not say which detector made it; assuming the public FID Inception, as in EDM"
    distributed.print0(note, file=sys.stderr)


def require_same_detector(reference: Reference, detector: Detector) -> None:
    """Raise UserError unless the reference was made with this detector: its name, weights, resize and dimensions."""
    pairs = [
        ("detector", reference.detector, detector.name),
        ("weights with SHA-256", reference.detector_sha256, detector.sha256),
        ("resize filter", reference.resize, detector.resize),
        ("dimensions", len(reference.mean), detector.dim),
    ]
    for what, expected, given in pairs:
        if expected is not None and expected != given:
            raise UserError(
                f"{reference.path} was made with {what} {expected}, but the images use {given}; "
                "use the same `detector` and `detector_weights`, or create a reference with fid.py ref"
            )
