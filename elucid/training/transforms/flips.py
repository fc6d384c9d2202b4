"""Horizontal flips."""

import torch
from torch import Tensor

from elucid.training.transforms.base import Transform
from elucid.training.types import Batch


class Mirror(Transform):
    """Flips the images [B,C,H,W] that the stream marked in `Batch.mirrored`, and the maps [B,c,h,w] given beside them.

    It is applied before the encoder, since the latent of a flipped image is not the flipped latent.
    """

    def __call__(self, batch: Batch) -> Batch:
        def flipped(maps: Tensor) -> Tensor:
            return torch.where(batch.mirrored[:, None, None, None], maps.flip(3), maps)

        cond = {name: flipped(one) if one.ndim == 4 else one for name, one in batch.cond.items()}
        return Batch(flipped(batch.images), cond, batch.mirrored)
