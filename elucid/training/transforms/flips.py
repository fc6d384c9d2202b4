"""Horizontal flips."""

import torch

from elucid.training.transforms.base import Transform
from elucid.training.types import Batch


class Mirror(Transform):
    """Flips the images [B,C,H,W] that the stream marked in `Batch.mirrored`.

    It is applied before the encoder, since the latent of a flipped image is not the flipped latent.
    """

    def __call__(self, batch: Batch) -> Batch:
        flipped = torch.where(batch.mirrored[:, None, None, None], batch.images.flip(3), batch.images)
        return Batch(flipped, batch.cond, batch.mirrored)
