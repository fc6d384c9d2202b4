"""Feature detectors, which map pictures or arrays to float32 features in full precision."""

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
from elucid.torch_utils.transfer import moved

INTERFACE = Interface("detector", methods={"__call__": ("images",)}, arguments=("device", "weights"))
ATTRIBUTES = {"name": str, "dim": int, "sha256": str, "resize": str}
TAKES = ("pictures", "arrays")


class Detector(ABC):
    """Base class: maps images u8[B,1 or 3,H,W] to features f32[B,dim], which must not depend on the batch.

    One with `takes = "arrays"` gets arrays f32[B,C,H,W] of any channels instead, in the data's own units.
    `name` and `sha256` (of the weights) identify the detector, `resize` describes how images are resized to the
    network's input. A detector is constructed as `Class(device=torch.device, weights=path or URL, or None)`.
    """

    name: str
    dim: int
    sha256: str
    resize: str
    device: torch.device
    takes: str = "pictures"
    extra: Mapping[str, int] = {}
    """Dimensions of further `outputs`: "spatial" (of an early layer, flattened) and "logits" (of a classifier)."""

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Compute features f32[B,dim] of RGB images u8[B,3,H,W], or arrays f32[B,C,H,W], on the detector's device."""

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        with full_precision():
            images = self.placed(images)
            return self.features(as_rgb(images) if self.takes == "pictures" else as_arrays(images))

    def placed(self, images: Tensor) -> Tensor:
        """Return images on the detector's device, in the usual order in memory, whatever it was."""
        return moved(images.contiguous(), self.device)

    def outputs(self, images: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Return "features" and those of `extra` that are named, each f32[B,its size], of images as for `__call__`.

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
    if getattr(detector, "takes", "pictures") not in TAKES:
        raise UserError(f"detector {name}: takes={detector.takes!r} must be one of {', '.join(TAKES)}")
    return detector


def takes_arrays(detector: Detector) -> bool:
    """Return whether a detector, which need not derive from `Detector`, takes arrays, not pictures."""
    return getattr(detector, "takes", "pictures") == "arrays"


def require_suitable(detector: Detector, images: Tensor) -> None:
    """Raise UserError for arrays and a detector of pictures, and for values that are not finite, with their place."""
    if not takes_arrays(detector):
        kind = str(images.dtype).removeprefix("torch.")
        if kind != "uint8" or images.shape[1] not in (1, 3):
            raise UserError(
                f"`detector`={detector.name} takes gray or RGB pictures, not {kind} arrays of {images.shape[1]} "
                'channels; write one with takes = "arrays" and give it as `detector`=file.py:Name'
            )
    elif images.is_floating_point() and not bool(torch.isfinite(images).all()):
        _, channel, row, column = (~torch.isfinite(images)).nonzero()[0].tolist()
        raise UserError(
            f"an array has NaN or infinity at channel {channel}, row {row}, column {column}; repair it or leave it out"
        )


def as_arrays(images: Tensor) -> Tensor:
    """Convert arrays [B,C,H,W] of any kind of number to float32."""
    if images.ndim != 4:
        raise UserError(f"detectors take arrays [B,C,H,W], not {list(images.shape)}")
    return images.to(torch.float32)


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
