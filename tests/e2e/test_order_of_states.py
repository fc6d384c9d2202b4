"""A state names the order of its images, and goes on in it; one without a name goes on in that of version 0.1."""

import numpy as np
import pytest
import torch
from PIL import Image

from elucid.training.data.loading import order
from elucid.training.run import Run

NETWORK = {"name": "ddpmpp", "model_channels": 16, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}


@pytest.fixture
def new_run(tmp_path, monkeypatch):
    """Make a run on 40 pictures of one colour each, for which `large` is the number above which sets are large."""
    for index in range(40):
        Image.fromarray(np.full((16, 16), 5 * index, dtype=np.uint8)).save(tmp_path / f"{index:02}.png")

    def new_run(large: int) -> Run:
        monkeypatch.setattr(order, "LARGE", large)
        options = {
            **{"network": NETWORK, "encoder": {"name": "rgb"}, "precond": {"name": "edm"}, "loss": {"name": "edm"}},
            **{"optimizer": {"name": "adam"}, "lr_schedule": {"name": "constant"}, "ema": {"name": "halflife"}},
            **{"sampler": "edm", "schedule": "karras", "dataset": {"path": str(tmp_path), "cache": "none"}},
            "loop": {"batch_size": 8, "duration_mimg": 1e-3, "seed": 1},
        }
        return Run(options, torch.device("cpu"))

    return new_run


def images(run: Run, batches: int) -> list[int]:
    """Which images the next batches have."""
    found = [((run.stream.next(8).images[:, 0, 0, 0] + 1) * 127.5 / 5).round().long().tolist() for _ in range(batches)]
    return sum(found, [])


@pytest.mark.parametrize("large, name", [(39, "feistel"), (40, "shuffled")])
def test_a_run_goes_on_in_its_order(new_run, large, name):
    run = new_run(large)
    first, state = images(run, 3), run.state_dict()
    assert state["order"] == name
    later = images(run, 7)
    for other in (0, 1000):  # whichever order a new run would use
        resumed = new_run(other)
        resumed.resume(state)
        assert images(resumed, 7) == later
    assert sorted(first + later[:16]) == sorted(later[16:]) == list(range(40))


def test_a_state_without_a_name_has_numpys_order(new_run):
    state = new_run(40).state_dict()
    del state["order"]
    state["position"] = 80
    run = new_run(39)
    assert run.stream.order == "feistel"
    run.resume(state)
    assert images(run, 5) == np.random.default_rng([1, 2]).permutation(40).tolist()
