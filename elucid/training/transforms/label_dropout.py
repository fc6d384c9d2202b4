"""Labels left out at random, so that one network learns with and without them (Ho & Salimans 2022)."""

import torch

from elucid.training.transforms.base import Transform
from elucid.training.types import Batch


class LabelDropout(Transform):
    """`cond["labels"]` [B,D] becomes all zeros for each image with probability `p`."""

    def __init__(self, p: float):
        self.p = p

    def __call__(self, batch: Batch) -> Batch:
        labels = batch.cond["labels"]
        kept = labels * (torch.rand(len(labels), 1, device=labels.device) >= self.p)
        return Batch(batch.images, {**batch.cond, "labels": kept}, batch.mirrored)
