"""VP, VE and EDM losses equal the reference elementwise, draws included."""

import pytest
import torch

from elucid.training.registry.components import make
from elucid.training.types import Batch
from tests import vectors
from tests.oracles import step_at

CASES = vectors.cases("losses/*Loss")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_loss(path):
    case, arrays = vectors.load(path)
    case["parameters"] = vectors.parameters_of(case)
    denoiser = vectors.denoiser(case).eval()
    loss = make(case["loss"].removesuffix("Loss").lower(), "loss")
    batch = Batch(torch.from_numpy(arrays["images"]), {"labels": torch.from_numpy(arrays["class_labels"])})
    torch.manual_seed(case["torch_seed"])
    evaluation = loss.evaluate(denoiser, batch)
    assert vectors.relative_error(evaluation.error, arrays["loss"]) < 1e-5
    torch.manual_seed(case["torch_seed"])
    total = loss(denoiser, batch, step_at(0, 1)).loss
    assert vectors.relative_error(total, arrays["loss"].sum(axis=(1, 2, 3))) < 1e-5
