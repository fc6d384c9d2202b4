"""When the memory of the GPU runs out, the message names a micro-batch that fits; --batch-gpu=auto finds one."""

import gc
import re

import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.training.hooks.base import Hook
from elucid.training.loop import train
from elucid.training.memory import fit_batch
from tests.cuda.runs import CIFAR, DEVICE, new_run

BATCH, ROOM = 4096, 768 * 2**20
"""Images per step, and bytes that the tests may use, which are too few for them at once."""
ONE_STEP = {"batch_size": BATCH, "duration_mimg": BATCH / 1e6, "tick_kimg": 100, "snapshot_ticks": None}


@pytest.fixture(autouse=True)
def little_memory():
    if DEVICE.type != "cuda":
        pytest.skip("only the memory of CUDA can be limited; tests/unit/test_memory.py tries the CPU")
    gc.collect()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + ROOM) / total)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def test_the_message_names_a_micro_batch_that_fits(tmp_path):
    with pytest.raises(UserError, match="out of memory: CUDA out of memory") as raised:
        train(new_run(tmp_path, CIFAR, **ONE_STEP), tmp_path, Hook())
    found = re.search(r"the largest that fits is `batch_gpu`=(\d+)$", str(raised.value))
    assert found, raised.value
    size = int(found[1])
    del raised
    gc.collect()
    torch.cuda.empty_cache()
    assert 8 <= size < BATCH
    assert train(new_run(tmp_path, CIFAR, batch_gpu=size, **ONE_STEP), tmp_path, Hook())


def test_a_size_is_found(tmp_path):
    run = new_run(tmp_path, CIFAR, batch_gpu="auto", **ONE_STEP)
    fit_batch(run)
    assert 8 <= run.micro_batch_size < BATCH and run.micro_batch_size * run.grad_accum_steps == BATCH
    assert train(run, tmp_path, Hook())
