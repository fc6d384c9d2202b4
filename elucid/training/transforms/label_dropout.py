"""Label dropout for classifier-free guidance (Ho & Salimans 2022)."""

import torch

from elucid.training.transforms.base import Transform
from elucid.training.types import Batch


class LabelDropout(Transform):
    """Sets `cond["labels"]` [B,D] to zero for each image with probability `p`."""

    def __init__(self, p: float):
        self.p = p

    def __call__(self, batch: Batch) -> Batch:
        labels = batch.cond["labels"]
        kept = labels * (torch.rand(len(labels), 1, device=labels.device) >= self.p)
        return Batch(batch.images, {**batch.cond, "labels": kept}, batch.mirrored, batch.raw)
