"""EDM2's learning rates equal the reference: a rise from 0, then a fall with the inverse square root of the images."""

import numpy as np
import pytest

from elucid import TrainOptions
from elucid.training.config.options import options_from
from elucid.training.config.presets.edm2 import EDM2_PRESETS
from elucid.training.optim.schedules import Constant, InverseSqrt
from elucid.training.registry.components import make
from tests import vectors
from tests.oracles import step_at

CASES = vectors.cases("edm2/lr_schedule*")


def rates(schedule, lr: float, counts: np.ndarray) -> list[float]:
    return [schedule.rate(lr, step_at(int(nimg), total_nimg=2**40)) for nimg in counts]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_rates(path):
    case, there = vectors.load(path)
    assert len(case["settings"]) == len(there["lr"])
    for one, wanted in zip(case["settings"], there["lr"], strict=True):
        warmup, reference = one["rampup_Mimg"] * 1000, one["ref_batches"] * one["batch_size"] / 1e6
        schedule = InverseSqrt(warmup, reference_mimg=reference) if reference else Constant(warmup)
        found = rates(schedule, one["ref_lr"], there["nimg"])
        assert found == pytest.approx(wanted, rel=1e-12, abs=0), one
        assert not warmup or found[0] == 0


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_presets_have_these_rates(path):
    """Each setting of the reference with the published batch belongs to a preset, found by its own three numbers."""
    case, there = vectors.load(path)
    found = {}
    for name in EDM2_PRESETS:
        options = options_from(TrainOptions(preset=name, data="x.zip", seed=0).flags())
        schedule = make(options["lr_schedule"], "lr_schedule")
        decay = round(schedule.reference_mimg * 1e6 / options["loop"]["batch_size"])
        found[options["optimizer"]["lr"], decay] = schedule
    settings = zip(case["settings"], there["lr"], strict=True)
    published = {(one["ref_lr"], one["ref_batches"]): lr for one, lr in settings if one["batch_size"] == 2048}
    assert published.keys() <= found.keys()
    for (lr, decay), wanted in published.items():
        assert rates(found[lr, decay], lr, there["nimg"]) == pytest.approx(wanted, rel=1e-12, abs=0)
