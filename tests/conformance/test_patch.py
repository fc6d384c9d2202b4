"""Patch Diffusion equals the reference: crops, coordinates and loss at every size, and a full-size sample."""

import re

import pytest
import torch

from elucid.training.losses.patch import random_crops, with_coordinates
from elucid.training.registry.components import make
from elucid.training.types import Batch
from tests import vectors

CASES = vectors.cases("losses/patch*")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_crops_and_losses(path):
    case, arrays = vectors.load(path)
    denoiser = vectors.denoiser(case).eval()
    images, labels = (torch.from_numpy(arrays[name]) for name in ("images", "class_labels"))
    whole = with_coordinates(Batch(images, {"labels": labels}))
    sizes = sorted({int(match[1]) for name in arrays if (match := re.match(r"size(\d+):", name))})
    assert sizes
    for size in sizes:
        torch.manual_seed(case["torch_seed"])
        batch = random_crops(whole, size, size)
        assert vectors.relative_error(batch.images, arrays[f"size{size}:crop"]) < 1e-6
        assert vectors.relative_error(batch.cond["coords"], arrays[f"size{size}:coords"]) < 1e-6
        level, noise = (torch.from_numpy(arrays[f"size{size}:{name}_draw"]) for name in ("level", "noise"))
        evaluation = make("edm", "loss").evaluate(denoiser, batch, (level * 1.2 - 1.2).exp(), noise)
        assert vectors.relative_error(evaluation.error, arrays[f"size{size}:loss"]) < 1e-5
