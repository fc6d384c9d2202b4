"""Random crops, the augmentation of ADM's classifiers."""

import torch
from torch.nn import functional as F

from elucid.dnnlib.errors import UserError
from elucid.training.transforms.augment_pipe import SPATIAL
from elucid.training.transforms.base import Transform
from elucid.training.types import Batch


class RandomCrop(Transform):
    """Replaces each image by a random part of it, enlarged to full size (Dhariwal & Nichol 2021, section 4.1).

    Both sides are the same fraction of the image's, uniform from `min_fraction` to 1; the position is uniform as well.
    Images [B,C,H,W] and their `coords` are interpolated bilinearly. Raises UserError for a fraction that is not above 0
    and at most 1, and for other spatial maps.
    """

    def __init__(self, min_fraction: float = 0.8):
        if not 0 < min_fraction <= 1:
            raise UserError(f"min_fraction={min_fraction:g} must be above 0 and at most 1; ADM uses 0.8")
        self.min_fraction = min_fraction

    def __call__(self, batch: Batch) -> Batch:
        images, cond = batch.images, dict(batch.cond)
        unknown = [name for name, value in cond.items() if value.ndim == 4 and name not in SPATIAL]
        if unknown:
            raise UserError(f"random_crop does not know the map {unknown[0]!r}, which must move with the image")
        fraction, x, y = torch.rand(3, len(images), device=images.device)
        fraction = self.min_fraction + (1 - self.min_fraction) * fraction
        x, y = (1 - fraction) * (2 * x - 1), (1 - fraction) * (2 * y - 1)
        zero = torch.zeros_like(x)
        source = torch.stack([fraction, zero, x, zero, fraction, y], dim=1).reshape(-1, 2, 3)
        # From the centre of the first pixel to that of the last, so that nothing beyond the image is needed.
        grid = F.affine_grid(source, list(images.shape), align_corners=True).to(images.dtype)

        def cropped(maps):
            return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=True)

        cond |= {name: cropped(cond[name]) for name in SPATIAL if name in cond}
        return Batch(cropped(images), cond, batch.mirrored)
