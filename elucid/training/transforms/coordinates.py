"""Coordinate channels for networks trained on patches (Wang et al. 2023)."""

import torch
from torch import Tensor

from elucid.training.transforms.base import Transform
from elucid.training.types import Batch


def coordinate_grid(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Return pixel coordinates [2,H,W], channel 0 = x, 1 = y, each from -1 to 1 (Wang et al. 2023)."""
    y = torch.linspace(-1, 1, height, device=device) if height > 1 else torch.zeros(1, device=device)
    x = torch.linspace(-1, 1, width, device=device) if width > 1 else torch.zeros(1, device=device)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])


class Coordinates(Transform):
    """Adds cond["coords"] [B,2,H,W]: x, then y of every pixel, each from -1 to 1, flipped with the image."""

    def __call__(self, batch: Batch) -> Batch:
        grid = coordinate_grid(*batch.images.shape[2:], device=batch.images.device).expand(len(batch), -1, -1, -1)
        if batch.mirrored is not None:
            grid = torch.where(batch.mirrored[:, None, None, None], grid.flip(3), grid)
        return Batch(batch.images, {**batch.cond, "coords": grid}, batch.mirrored, batch.raw)
