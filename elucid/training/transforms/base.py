"""Base class of transforms, which are applied to batches before the loss."""

from abc import ABC, abstractmethod

from elucid.training.types import Batch, NetSpec


class Transform(ABC):
    """Base class of batch transforms on the device. To add one, subclass it, e.g. `--transform=mine.py:Blur`.

    A transform that adds to `cond` must declare the condition in `adapt`. One that moves no pixels
    passes `Batch.raw` on.
    """

    def adapt(self, spec: NetSpec) -> NetSpec:
        """Return the network spec after this transform, e.g. `spec.with_vector("augment", 9)`."""
        return spec

    @abstractmethod
    def __call__(self, batch: Batch) -> Batch:
        """Return the transformed batch; images f32[B,C,H,W] in [-1, 1]."""
