"""Micro-batches that fit into memory: found by trying, without a trace, and named when memory runs out."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.training import memory
from elucid.training.config.options import options_from
from elucid.training.config.train_options import TrainOptions
from elucid.training.memory import fit_batch, sizes_of
from elucid.training.run import Run
from tests import scripts

SMALL = {"network.num_blocks": 1, "network.attn_resolutions": []}

HUNGRY = """
import torch
from elucid.training.losses.base import Loss, LossWrapper

class Hungry(LossWrapper):
    '''Runs out of memory for more than a number of images.'''

    def __init__(self, base: Loss, most: int = 5):
        super().__init__(base)
        self.most = most

    def forward(self, denoiser, batch, step):
        if len(batch) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 7.00 GiB")
        return self.base(denoiser, batch, step)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for index in range(8):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def hungry(tmp_path):
    path = tmp_path / "hungry.py"
    path.write_text(HUNGRY)
    return path


def make_run(data, **given) -> Run:
    options = TrainOptions(data=data, seed=0, cache="0", cbase=16, cres=[1], batch=24, set=SMALL, **given)
    return Run(options_from(options.flags()), torch.device("cpu"))


def test_sizes_are_powers_of_two_and_the_share():
    assert sizes_of(48) == [1, 2, 4, 8, 16, 48] and sizes_of(32) == [1, 2, 4, 8, 16, 32] and sizes_of(7) == [1, 7]


def test_the_largest_that_fits(data, monkeypatch):
    """By memory for it, which grows with the images; checkpointing needs less of it."""
    sizes, needs = [], []
    for run in (make_run(data, batch_gpu="auto", checkpointing=flag) for flag in (False, True)):
        for room in (3e9, 3e6, 1.5e6):
            monkeypatch.setattr(memory, "free_memory", lambda device, room=room: room)
            fit_batch(run)
            sizes.append(run.micro_batch_size)
            assert run.micro_batch_size * run.grad_accum_steps == 24
            assert run.options["loop"]["batch_gpu"] == run.micro_batch_size
        needs.append([memory._need(run, size) for size in (1, 2, 4)])
    assert sizes[0] == sizes[3] == 24 and sizes[0] > sizes[1] > sizes[2] and sizes[4] > sizes[1]
    (one, two, four), less = needs
    assert 1.5 < two / one < 2.1 and 1.8 < four / two < 2.1 and less[2] < 0.6 * four


def test_trying_leaves_no_trace(data):
    """Neither in the random numbers nor in the data, gradients and observations of the loss."""
    run = make_run(data, precond="ddpm", loss="vlb", batch_gpu="auto", xflip=True)
    before = {name: one.clone() for name, one in run.objective.state_dict().items()}
    state, position = torch.get_rng_state(), run.stream.position
    fit_batch(run)
    assert torch.equal(state, torch.get_rng_state()) and run.stream.position == position
    assert all(torch.equal(one, before[name]) for name, one in run.objective.state_dict().items())
    assert all(one.grad is None for one in run.objective.parameters())
    assert not any(getattr(one, "pending", None) for one in run.objective.modules())


def test_nothing_fits(data, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 1000)
    with pytest.raises(UserError, match="`batch_gpu`=auto: not even one image fits .*`checkpointing`=1 or `shard`=1"):
        fit_batch(make_run(data, batch_gpu="auto"))


def train(monkeypatch, capsys, data, tmp_path, *flags):
    small = ["--cbase=16", "--cres=1", *(f"--set={name}={json.dumps(value)}" for name, value in SMALL.items())]
    common = [f"--data={data}", f"--outdir={tmp_path}", "--nosubdir", "--device=cpu", "--seed=0", "--cache=0"]
    length = ["--batch=16", "--duration=0.00003", "--tick=0.016", "--set=loop.grid_images=0"]
    return scripts.call(monkeypatch, capsys, "train.py", *small, *common, *length, *flags)


@pytest.mark.parametrize(("most", "words"), [(5, "the largest that fits is --batch-gpu=4"), (0, "not even one image")])
def test_memory_runs_out(most, words, data, hungry, tmp_path, monkeypatch, capsys):
    flags = f"--loss={hungry}:Hungry(edm)", f"--set=loss.most={most}"
    code, _, err = train(monkeypatch, capsys, data, tmp_path, *flags)
    assert code == 2
    assert err.strip().splitlines()[-1].startswith(f"error: out of memory: CUDA out of memory; {words}")
    if most:
        code, out, _ = train(monkeypatch, capsys, data, tmp_path, *flags, "--batch-gpu=auto")
        assert code == 0 and "4 passes x 4 images" in out


@pytest.mark.parametrize("given", ["many", "0", "-3", "1.5"])
def test_no_micro_batch(given, data, tmp_path, monkeypatch, capsys):
    code, _, err = train(monkeypatch, capsys, data, tmp_path, f"--batch-gpu={given}")
    assert code == 2 and "--batch-gpu" in err
