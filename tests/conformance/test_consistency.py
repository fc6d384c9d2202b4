"""CDM equals the reference: the path from one noisy image, the prediction at its end, both terms of the loss."""

from functools import partial

import pytest
import torch

from elucid.torch_utils.batches import repeat_batch
from elucid.training.losses.consistency import ConsistencyLoss
from elucid.training.noise.schedules import rho_levels
from elucid.training.registry.components import make
from elucid.training.samplers.sde import reverse_sde_path
from elucid.training.types import Batch
from tests import vectors

CASES = vectors.cases("losses/consistency*")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_consistency(path):
    case, arrays = vectors.load(path)
    t = {name: torch.from_numpy(array) for name, array in arrays.items()}
    denoiser = vectors.denoiser(case).eval()
    cond = {"labels": t["class_labels"]}
    start = make("edm", "loss").evaluate(denoiser, Batch(t["images"], cond), t["sigma"], t["noise"] / t["sigma"])
    assert vectors.relative_error(start.prediction.x0, arrays["D_start"]) < 1e-4
    assert vectors.relative_error(start.error, arrays["dsm"]) < 1e-4

    floor = case["sigma_floor"]
    epsilon = case["epsilon_min"] + t["epsilon_uniform"] * (case["epsilon_max"] - case["epsilon_min"])
    end = (t["sigma"] - epsilon).clamp(min=floor)
    assert vectors.relative_error(end, arrays["sigma_end"]) < 1e-6
    levels = rho_levels(case["num_steps"], repeat_batch(end).flatten(), repeat_batch(t["sigma"]).flatten(), case["rho"])
    assert vectors.relative_error(levels, arrays["t_steps"].reshape(len(levels.T), -1).T) < 1e-6

    doubled = {"labels": repeat_batch(t["class_labels"])}
    for first in (None, repeat_batch(start.prediction.x0)):
        draws = iter(t["z"])
        ends = reverse_sde_path(
            partial(denoiser, cond=doubled), repeat_batch(start.x), levels, lambda x, z=draws: next(z), first
        )
        assert vectors.relative_error(ends, arrays["path"][-1]) < 1e-4
    term = ConsistencyLoss.consistency(denoiser, ends, repeat_batch(end), start.prediction.x0, doubled)
    assert vectors.relative_error(term, arrays["consistency"]) < 1e-4
