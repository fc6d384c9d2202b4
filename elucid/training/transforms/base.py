"""What every transform is: a step on the way of a batch from the stored images to what the loss sees."""

from abc import ABC, abstractmethod

from elucid.training.types import Batch, NetSpec


class Transform(ABC):
    """Changes a batch on the device, once per step. One of your own is a subclass, e.g. `--transform=mine.py:Blur`.

    What it adds to `cond` for the network, it asks for by `adapt`.
    """

    def adapt(self, spec: NetSpec) -> NetSpec:
        """What the network must take in after this transform, e.g. `spec.with_vector("augment", 9)`."""
        return spec

    @abstractmethod
    def __call__(self, batch: Batch) -> Batch:
        """The batch, changed; images f32[B,C,H,W] in [-1, 1]."""
