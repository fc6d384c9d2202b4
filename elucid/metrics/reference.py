"""Reference statistics as npz files, compatible with EDM's in both directions.

Keys: `mu` f64[D], `sigma` f64[D,D] (unbiased covariance), and in our own files also `num_images`, `detector`,
`detector_sha256`, how the images were made and read: `resize`, `crop`, `file_format`, `data_sha256` (of the pixels),
`label_policy`, `image_shape`. On request also `features` f32[N,D], and `spatial_mu`, `spatial_sigma`, the statistics of
another layer.
"""

import os
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from elucid.dnnlib import files
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import checksums, limits
from elucid.dnnlib.reading.limits import require_ratio
from elucid.metrics.detectors import Detector
from elucid.metrics.statistics import FeatureStatistics
from elucid.torch_utils import distributed
from elucid.torch_utils.guards.finite import require_finite

EDM_DETECTOR, EDM_DIM = "inception", 2048


@dataclass(frozen=True)
class Provenance:
    """How images were made and read: the part of them that is seen, their file format, the SHA-256 of all pixels,
    which classes they have, and their shape CxHxW. None is unknown."""

    crop: str | None = None
    file_format: str | None = None
    data_sha256: str | None = None
    label_policy: str | None = None
    image_shape: str | None = None

    @classmethod
    def of(cls, values: Mapping) -> "Provenance":
        """Return what is known among other values."""
        return cls(**{one.name: values.get(one.name) for one in fields(cls)})

    @property
    def line(self) -> str:
        """What is known, as text."""
        digest = self.data_sha256 and self.data_sha256[:12]
        known = {"shape": self.image_shape, "crop": self.crop, "format": self.file_format, "pixels": digest}
        known["classes"] = self.label_policy
        return ", ".join(f"{what} {value or 'unknown'}" for what, value in known.items())


@dataclass
class Reference:
    """Mean f64[D] and covariance f64[D,D] of a set of images; fields that EDM's files lack are None.

    `features` f32[N,D] and `spatial`, mean and covariance, are there if the reference was made with them.
    """

    path: str
    mean: Tensor
    covariance: Tensor
    detector: str
    detector_sha256: str | None = None
    resize: str | None = None
    num_images: int | None = None
    provenance: Provenance = field(default_factory=Provenance)
    features: Tensor | None = None
    spatial: tuple[Tensor, Tensor] | None = None

    @property
    def count(self) -> str:
        """The number of images as text."""
        return "an unknown number of" if self.num_images is None else str(self.num_images)

    @property
    def unknown(self) -> list[str]:
        """What the file does not say, of what decides whether two scores can be compared."""
        said = {
            "detector weights": self.detector_sha256,
            "resize filter": self.resize,
            "number of images": self.num_images,
            "crop": self.provenance.crop,
            "file format": self.provenance.file_format,
            "hash of the images": self.provenance.data_sha256,
            "label policy": self.provenance.label_policy,
        }
        return [what for what, value in said.items() if value is None]


def save_reference(
    path: str | os.PathLike,
    statistics: FeatureStatistics,
    detector: Detector,
    *,
    features: Tensor | None = None,
    spatial: FeatureStatistics | None = None,
    provenance: Provenance | None = None,
) -> None:
    """Write the statistics, perhaps the features, and the identity of the detector to a file, atomically."""
    arrays = {
        "mu": statistics.mean.cpu().numpy(),
        "sigma": statistics.covariance.cpu().numpy(),
        "num_images": np.int64(statistics.num),
        "detector": np.array(detector.name),
        "detector_sha256": np.array(detector.sha256),
        "resize": np.array(detector.resize),
    }
    for one in fields(Provenance):
        if (value := getattr(provenance, one.name, None)) is not None:
            arrays[one.name] = np.array(value)
    if features is not None:
        arrays["features"] = features.cpu().float().numpy()
    if spatial is not None:
        arrays |= {"spatial_mu": spatial.mean.cpu().numpy(), "spatial_sigma": spatial.covariance.cpu().numpy()}
    require_finite({name: torch.from_numpy(one) for name, one in arrays.items() if one.dtype.kind == "f"}, str(path))
    with files.write_output(path) as file:
        np.savez(file, **arrays)
        checksums.seal(file)


def load_reference(name: str, features: bool = False, spatial: bool = False) -> Reference:
    """Load a reference from a path or URL, perhaps with what it holds besides the statistics.

    Warns of what the file does not say. Raises UserError naming the file if it is invalid or damaged.
    """
    path = files.fetch(name, "reference")
    checked = checksums.verify(path)
    if not zipfile.is_zipfile(path):
        raise UserError(f"{name}: not a readable npz file; create it again with fid.py ref")
    if not checked:
        checksums.note_missing(name)
    arrays = _read_arrays(path, name, (set() if features else {"features"}) | (set() if spatial else _SPATIAL))
    if "mu" not in arrays or "sigma" not in arrays:
        raise UserError(f"{name}: not a reference, as it lacks mu and sigma; create one with fid.py ref")
    mean, covariance = _gaussian(name, arrays, "mu", "sigma")
    texts = {key: _text(name, key, arrays[key]) if key in arrays else None for key in _TEXTS}
    reference = Reference(
        path=str(name),
        mean=mean,
        covariance=covariance,
        detector=texts["detector"] or EDM_DETECTOR,
        detector_sha256=texts["detector_sha256"],
        resize=texts["resize"],
        num_images=_count(name, arrays["num_images"]) if "num_images" in arrays else None,
        provenance=Provenance.of(texts),
        features=_features(name, arrays["features"], len(mean)) if "features" in arrays else None,
        spatial=_gaussian(name, arrays, "spatial_mu", "spatial_sigma") if _SPATIAL <= arrays.keys() else None,
    )
    if "detector" not in arrays:
        _take_as_edm(reference)
    if reference.unknown:
        unknown = ", ".join(reference.unknown)
        line = f"warning: {name} does not say: {unknown}; scores by other programs may differ in them"
        distributed.print0(line, file=sys.stderr)
    return reference


_TEXTS = ("detector", "detector_sha256", "resize", *(one.name for one in fields(Provenance)))
_SPATIAL = {"spatial_mu", "spatial_sigma"}
_KNOWN = {"mu", "sigma", "num_images", "features", *_TEXTS, *_SPATIAL}
_MOST_PARTS = 1000


def _text(name: str, key: str, value: np.ndarray) -> str:
    if value.ndim or value.dtype.kind != "U":
        raise UserError(f"{name}: {key} is not a text; create it again with fid.py ref")
    return str(value)


def _count(name: str, value: np.ndarray) -> int:
    if value.ndim or value.dtype.kind not in "iu" or not 1 <= int(value) < 1 << 53:
        raise UserError(f"{name}: num_images is not a number of images; create it again with fid.py ref")
    return int(value)


def _gaussian(name: str, arrays: dict[str, np.ndarray], mu: str, sigma: str) -> tuple[Tensor, Tensor]:
    """Return a mean and a covariance in float64. Raises UserError if they are none."""
    mean, covariance = arrays[mu], arrays[sigma]
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise UserError(
            f"{name}: {mu} {mean.shape} and {sigma} {covariance.shape} do not fit; create it again with fid.py ref"
        )
    if not all(np.issubdtype(array.dtype, np.floating) and np.isfinite(array).all() for array in (mean, covariance)):
        raise UserError(f"{name}: {mu} or {sigma} has values that are not finite; create it again with fid.py ref")
    return torch.from_numpy(mean.astype(np.float64)), torch.from_numpy(covariance.astype(np.float64))


def _features(name: str, values: np.ndarray, dim: int) -> Tensor:
    if values.ndim != 2 or values.shape[1] != dim or values.dtype != np.float32 or not np.isfinite(values).all():
        raise UserError(
            f"{name}: features are not finite float32 [N,{dim}]; create it again with fid.py ref --features"
        )
    return torch.from_numpy(values)


def _read_arrays(path: Path, name: str, skipped: set[str]) -> dict[str, np.ndarray]:
    try:
        _require_modest(path, name, skipped)
        with np.load(path, allow_pickle=False) as arrays:
            return {key: arrays[key] for key in arrays.files if key in _KNOWN - skipped}
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001  numpy and zipfile fail in many ways on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{name}: not a readable npz file ({reason}); create it again with fid.py ref") from error


def _require_modest(path: Path, name: str, skipped: set[str]) -> None:
    """Raise UserError for an archive that would fill the memory: its statistics, and how far its parts expand."""
    with zipfile.ZipFile(path) as archive:
        entries = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}
        if len(archive.infolist()) > _MOST_PARTS:
            raise UserError(f"{name}: has {len(archive.infolist())} parts; create it again with fid.py ref")
    if sum(one.compress_size for one in entries.values()) > path.stat().st_size:
        raise UserError(f"{name}: its parts are larger than the file; create it again with fid.py ref")
    for key in entries.keys() & (_KNOWN - skipped):
        require_ratio(entries[key].file_size, entries[key].compress_size, f"{name}: {key}")
        if key in _TEXTS:
            limits.SMALL_TEXT.require(entries[key].file_size, f"{name}: {key}")
    statistics = sum(entries[key].file_size for key in entries.keys() & ({"mu", "sigma", *_SPATIAL} - skipped))
    limits.ARRAY_BYTES.require(statistics, f"{name}: the size of its statistics")


def _take_as_edm(reference: Reference) -> None:
    dim = len(reference.mean)
    if dim != EDM_DIM:
        raise UserError(
            f"{reference.path}: has {dim} dimensions, not {EDM_DIM}, and does not say which detector made it; "
            "create it again with fid.py ref"
        )
    note = f"note: {reference.path} does not say which detector made it; assuming the public FID Inception, as in EDM"
    distributed.print0(note, file=sys.stderr)


def require_same_shape(reference: Reference, images: Provenance) -> None:
    """Raise UserError if images have another size or other channels than those of the reference, if it says them."""
    ours, theirs = images.image_shape, reference.provenance.image_shape
    if ours is not None and theirs is not None and ours != theirs:
        raise UserError(
            f"the images are {ours} (channels, height, width), those of {reference.path} {theirs}; prepare both alike"
        )


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
