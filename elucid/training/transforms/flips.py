"""Mirror images, which double a data set."""

import torch

from elucid.training.transforms.base import Transform
from elucid.training.types import Batch


class Mirror(Transform):
    """Flip those images [B,C,H,W] that the stream took as mirror images.

    It comes before the encoder: the latents of a mirrored image are not its latents mirrored.
    """

    def __call__(self, batch: Batch) -> Batch:
        flipped = torch.where(batch.mirrored[:, None, None, None], batch.images.flip(3), batch.images)
        return Batch(flipped, batch.cond, batch.mirrored)
