"""Maps given beside each image, as a condition that is concatenated with the noisy image."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from elucid.dnnlib.errors import UserError
from elucid.training.encoders.base import Encoder
from elucid.training.transforms.base import Transform
from elucid.training.types import MAPS, Batch, NetSpec


class ConditionMaps(Transform):
    """`cond["cond_images"]` [B,c,H,W] = encoder.encode(maps [B,c,h,w]), interpolated to the image's size.

    With probability `dropout` the maps of an image are 0 everywhere, which is their mean, so that guidance has a
    prediction without them (Ho & Salimans 2022). Raises UserError for latents, whose size is another.
    """

    def __init__(self, encoder: Encoder, channels: int, dropout: float = 0.0):
        if not 0 <= dropout <= 1:
            raise UserError(f"`cond_dropout`={dropout:g} must be from 0 to 1")
        self.encoder, self.channels, self.dropout = encoder, channels, dropout
        self.size: tuple[int, int] | None = None

    def adapt(self, spec: NetSpec) -> NetSpec:
        if spec.latent:
            raise UserError("`cond_images`: maps are beside images, not latents; leave `train_on_latents` out")
        self.size = spec.resolution
        return spec.with_spatial(MAPS, self.channels)

    def encode(self, maps: Tensor, resolution: tuple[int, int]) -> Tensor:
        """Stored maps [B,c,h,w] -> f32 [B,c,H,W] as the network sees them."""
        seen = self.encoder.encode(maps)
        if tuple(seen.shape[2:]) == tuple(resolution):
            return seen
        return F.interpolate(seen, size=tuple(resolution), mode="bilinear", align_corners=False)

    def __call__(self, batch: Batch) -> Batch:
        maps = batch.cond[MAPS]
        seen = self.encode(maps, self.size or tuple(batch.images.shape[2:]))
        if self.dropout:
            seen = seen * (torch.rand(len(seen), 1, 1, 1, device=seen.device) >= self.dropout)
        return Batch(batch.images, {**batch.cond, MAPS: seen}, batch.mirrored, batch.raw)

    def read(self, dataset, indices: np.ndarray, resolution: tuple[int, int], device: torch.device) -> Tensor:
        """Return the maps of images of a dataset by their positions, without dropout."""
        return self.encode(torch.from_numpy(dataset.maps.read(indices)).to(device), resolution)


def maps_among(transforms: Iterable[Transform]) -> ConditionMaps | None:
    """Return the one of a run's transforms that gives maps as a condition."""
    return next((one for one in transforms if isinstance(one, ConditionMaps)), None)
