"""The encoder as a transform of batches."""

from elucid.training.encoders.base import Encoder
from elucid.training.transforms.base import Transform
from elucid.training.types import Batch, NetSpec


class Encode(Transform):
    """images -> encoder.encode(images); with `keep_pixels`, latents have the pixels that they are of beside them."""

    def __init__(self, encoder: Encoder, keep_pixels: bool = False):
        self.encoder, self.keep_pixels = encoder, keep_pixels

    def adapt(self, spec: NetSpec) -> NetSpec:
        adapted = self.encoder.adapt(spec)
        self.keep_pixels = self.keep_pixels and adapted.latent and not spec.latent
        return adapted

    def __call__(self, batch: Batch) -> Batch:
        raw = batch.images if self.keep_pixels else None
        return Batch(self.encoder.encode(batch.images), batch.cond, batch.mirrored, raw)
