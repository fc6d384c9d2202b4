"""The encoder as a transform of batches."""

from elucid.training.encoders.base import Encoder
from elucid.training.transforms.base import Transform
from elucid.training.types import Batch, NetSpec


class Encode(Transform):
    """images -> encoder.encode(images)."""

    def __init__(self, encoder: Encoder):
        self.encoder = encoder

    def adapt(self, spec: NetSpec) -> NetSpec:
        return self.encoder.adapt(spec)

    def __call__(self, batch: Batch) -> Batch:
        return Batch(self.encoder.encode(batch.images), batch.cond, batch.mirrored)
