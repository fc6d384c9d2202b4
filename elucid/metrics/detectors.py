"""Feature detectors, which map uint8 images to float32 features in full precision."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from elucid.dnnlib.config import lookup
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.plugins import Interface
from elucid.metrics.names import DETECTORS

INTERFACE = Interface("detector", methods={"__call__": ("images",)}, arguments=("device", "weights"))
ATTRIBUTES = {"name": str, "dim": int, "sha256": str, "resize": str}


class Detector(ABC):
    """Base class: maps images u8[B,1 or 3,H,W] to features f32[B,dim], which must not depend on the batch.

    `name` and `sha256` (of the weights) identify the detector, `resize` describes how images are resized to the
    network's input. A detector is constructed as `Class(device=torch.device, weights=path or URL, or None)`.
    """

    name: str
    dim: int
    sha256: str
    resize: str
    device: torch.device
    extra: Mapping[str, int] = {}
    """Dimensions of further `outputs`: "spatial" (of an early layer, flattened) and "logits" (of a classifier)."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Compute features f32[B,dim] of RGB images u8[B,3,H,W] on the detector's device."""

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        with full_precision():
            return self.features(as_rgb(images).to(self.device))

    def outputs(self, images: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Return "features" and those of `extra` that are named, each f32[B,its size], of images u8[B,1 or 3,H,W].

        By default the methods `logits` and `spatial` are called; override it to compute all in one pass.
        """
        return {name: self(images) if name == "features" else getattr(self, name)(images) for name in names}


def make_detector(name: str, device: torch.device, weights: str | os.PathLike | None = None) -> Detector:
    """Create a detector by short name, or an external one by `module:Name`, on the device.

    Raises UserError naming what an external detector lacks.
    """
    detector = lookup(DETECTORS, name, "detector", INTERFACE)(device=device, weights=weights)
    for attribute, kind in ATTRIBUTES.items():
        if not isinstance(getattr(detector, attribute, None), kind):
            raise UserError(f"detector {name}: {type(detector).__name__} must have {attribute}, a {kind.__name__}")
    return detector


def as_rgb(images: Tensor) -> Tensor:
    """Convert images u8[B,1 or 3,H,W] to u8[B,3,H,W]; gray images are repeated."""
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise UserError(f"detectors take uint8 images [B,C,H,W], not {images.dtype} {list(images.shape)}")
    if images.shape[1] not in (1, 3):
        raise UserError(f"detectors take gray or RGB images, not {images.shape[1]} channels; convert them first")
    return images.expand(-1, 3, -1, -1)


@contextmanager
def full_precision() -> Iterator[None]:
    """Disable TF32 and bf16 in this context, so that scores do not depend on the GPU or on training options.

    By torch's interface of each operation, which works whatever a library has set before. The older switches are set as
    well if they can be read, so that they can be inside; torch refuses to read one that contradicts the interface.
    """
    backends = torch.backends
    operations = [backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn]
    operations += [backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn]
    before = [one.fp32_precision for one in operations]
    matmul, convolution = _older(torch.get_float32_matmul_precision), _older(lambda: backends.cudnn.allow_tf32)
    choice = backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic
    try:
        _set_older(None if matmul is None else "highest", None if convolution is None else False)
        for one in operations:
            one.fp32_precision = "ieee"
        backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic = True, False, True
        yield
    finally:
        _set_older(matmul, convolution)
        for one, value in zip(operations, before, strict=True):
            one.fp32_precision = value
        backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic = choice


def _older(read: Callable):
    """Return the value of an older switch; None if torch refuses to read it."""
    try:
        return read()
    except RuntimeError:
        return None


def _set_older(matmul: str | None, convolution: bool | None) -> None:
    if matmul is not None:
        torch.set_float32_matmul_precision(matmul)
    if convolution is not None:
        torch.backends.cudnn.allow_tf32 = convolution
