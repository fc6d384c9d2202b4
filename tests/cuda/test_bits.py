"""With --deterministic training ends in the same bits on CUDA: twice, and stopped and resumed."""

import pytest
import torch

from elucid.torch_utils.checkpoint import newest_state
from elucid.training.hooks.base import Hook
from elucid.training.loop import train
from tests.cuda.runs import DEVICE, RECIPES, new_run

LENGTH = {"duration_mimg": 48e-6, "tick_kimg": 0.016, "snapshot_ticks": None, "state_ticks": None}
"""Six steps of eight images."""

CASES = {
    "bf16, images on the GPU": ("edm", {"precision": "bf16", "cache": "gpu"}),
    "bf16, images of the host": ("edm", {"precision": "bf16", "cache": "none"}),
    "fp16, images on the GPU": ("edm", {"precision": "fp16", "loss_scale": 2.0**10}),
    "fp16, images of the host": ("edm", {"precision": "fp16", "loss_scale": 2.0**10, "cache": "none"}),
    "fp16, too large a loss scale": ("edm", {"precision": "fp16", "loss_scale": 2.0**20, "duration_mimg": 192e-6}),
    "fp32, two passes, clipped": ("edm", {"batch_gpu": 4, "max_grad_norm": 0.5}),
    "tf32": ("edm", {"precision": "tf32"}),
    "bf16, compiled": ("edm", {"precision": "bf16", "compile": True}),
    "bf16, channels last": ("edm", {"precision": "bf16", "channels_last": True}),
    "bf16, checkpointing": ("edm", {"precision": "bf16", "checkpointing": True}),
    "bf16, another network": ("adm", {"precision": "bf16"}),
    "bf16, CDM": ("cdm", {"precision": "bf16"}),
    "bf16, patches": ("patch", {"precision": "bf16", "duration_mimg": 192e-6}),
    "bf16, a learned variance": ("hybrid", {"precision": "bf16"}),
    "bf16, EDM2's network": ("edm2", {"precision": "bf16"}),
    "bf16, a transformer": ("dit", {"precision": "bf16"}),
    "bf16, ECT": ("ect", {"precision": "bf16"}),
    "bf16, MeanFlow": ("mean_flow", {"precision": "bf16"}),
}


class Stop(Hook):
    """Asks for a stop halfway."""

    def on_step(self, run, images):
        if run.nimg >= run.loop.total_nimg / 2:
            run.stop.requested = True


def ended(folder, images, recipe: str, stops: bool, **loop) -> dict:
    """Train in a folder, from the newest state in it if there is one, and return the last state."""
    run = new_run(images, RECIPES[recipe], deterministic=True, **{**LENGTH, **loop})
    found = newest_state(folder)
    if found is not None:
        run.resume(found[1])
    said = []
    run.log = said.append
    folder.mkdir(exist_ok=True)
    assert train(run, folder, Stop() if stops else Hook()) is not stops
    assert not any("torch.compile fails" in text for text in said), said
    return newest_state(folder)[1]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def differences(one, other, where: str = "") -> list[str]:
    """Names of what differs in two nested containers, bit by bit."""
    if isinstance(one, torch.Tensor):
        same = one.shape == other.shape and torch.equal(bits(one), bits(other))
        return [] if same else [where]
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        return [found for key in one for found in differences(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        return [name for i in range(len(one)) for name in differences(one[i], other[i], f"{where}.{i}")]
    return [] if one == other else [where]


@pytest.mark.parametrize("case", CASES)
def test_twice_and_resumed_with_the_same_bits(case, tmp_path):
    """Weights, averages, moments, loss scale, random numbers and position in the data."""
    recipe, loop = CASES[case]
    first, again = (ended(tmp_path / name, tmp_path, recipe, False, **loop) for name in ("first", "again"))
    before = ended(tmp_path / "resumed", tmp_path, recipe, True, **loop)
    assert 0 < before["nimg"] < first["nimg"] and first["index"] >= 3
    resumed = ended(tmp_path / "resumed", tmp_path, recipe, False, **loop)
    parts = ("objective", "ema", "optimizers", "scaler", "nimg", "index", "position", "divergence")
    for other in (again, resumed):
        assert differences({name: first[name] for name in parts}, {name: other[name] for name in parts}) == []
        assert differences(first["processes"][0]["random"], other["processes"][0]["random"]) == []
    if loop.get("precision") == "fp16" and DEVICE.type == "cuda":
        large = loop["loss_scale"] > 2**10
        assert (first["scaler"]["scale"] < loop["loss_scale"]) is large, "the scale falls by steps that overflow"
    moved = differences(first["objective"], before["objective"])
    assert len(moved) > 0.5 * len(first["objective"]), "the steps after the stop change the weights"
