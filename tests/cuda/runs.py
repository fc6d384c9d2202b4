"""Small runs for the tests on CUDA, and the device they are for.

ELUCID_CUDA_TESTS_ON=cpu tries the tests themselves where there is no GPU: all that they compare is then computed on
the CPU, and what only CUDA can show, such as waits, is not looked for. Without it they are skipped there.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch

from elucid.torch_utils.precision import set_precision
from elucid.training.run import Run
from elucid.training.samplers.sde import reverse_sde_path
from tests import small_runs, transformers

DEVICE = torch.device(os.environ.get("ELUCID_CUDA_TESTS_ON", "cuda"))
CPU = torch.device("cpu")

NETWORK = {**small_runs.NETWORK, "model_channels": 32}

CIFAR = {"network": NETWORK, "augment": {"name": "edm", "p": 0.5}, "loss": {"name": "edm"}}
"""The recipe of CIFAR-10 with that network: EDM's loss, augmentation, classes, Adam, two averages, dropout."""

EDM = {"name": "edm"}
PLAIN = {**CIFAR, "augment": None}
FLOW = {"precond": {"name": "flow"}, "loss": {"name": "flow"}}
LEVELS = {"name": "ddpm", "diffusion_steps": 50}
RECIPES = {
    "edm": CIFAR,
    "adm": {**CIFAR, "network": {**NETWORK, "name": "adm"}},
    "cdm": {**CIFAR, "loss": {"name": "cdm", "martingale_steps": 3, "base": EDM}},
    "patch": {**CIFAR, "loss": {"name": "patch", "base": EDM}},
    "simple": {**CIFAR, "precond": LEVELS, "loss": {"name": "simple"}},
    "hybrid": {**CIFAR, "precond": LEVELS, "loss": {"name": "hybrid"}},
    "vp": {**CIFAR, "precond": {"name": "vp"}, "loss": {"name": "vp"}},
    "iddpm": {**CIFAR, "precond": {"name": "iddpm"}, "loss": {"name": "iddpm"}},
    "edm2": {
        "network": {**NETWORK, "name": "edm2", "channels_per_head": 16},
        "augment": None,
        "precond": {"name": "edm2"},
        "loss": {"name": "uncertainty", "base": EDM},
    },
    "dit": {**PLAIN, "network": transformers.small("dit"), **FLOW},
    "lightningdit": {**PLAIN, "network": transformers.small("lightningdit"), **FLOW},
    "jit": {**PLAIN, "network": transformers.small("jit"), **FLOW},
    "ddt": {**PLAIN, "network": transformers.small("ddt"), **FLOW},
    "ict": {**PLAIN, "loss": {"name": "ict", "end": 40}},
    "ect": {**PLAIN, "loss": {"name": "ect", "stages": 4}},
    "scm": {**PLAIN, "precond": {"name": "trigflow"}, "loss": {"name": "uncertainty", "base": {"name": "scm"}}},
    "mean_flow": {**PLAIN, "precond": {"name": "flow"}, "loss": {"name": "mean_flow"}},
    "imm": {**PLAIN, "precond": {"name": "imm"}, "loss": {"name": "imm"}},
}


def new_run(folder: Path, parts: dict, device: torch.device = DEVICE, cache: str = "gpu", **loop) -> Run:
    """A run of one of the recipes on the pictures, with torch's switches set as training sets them."""
    small_runs.pictures(folder)
    run = Run(small_runs.options(folder, parts, {"cache": cache, "xflip": True}, **loop), device)
    set_precision(run.loop.precision, run.loop.bench)
    return run


def away_from_the_start(module: torch.nn.Module, seed: int = 0) -> None:
    """Give all weights random values, as those of the initialisation are partly zero; the same on all devices."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)


@contextmanager
def no_waits() -> Iterator[None]:
    """Let torch raise RuntimeError where the host waits for CUDA."""
    if DEVICE.type != "cuda":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def numbers_of_the_host() -> Iterator[None]:
    """Draw on the host what is drawn on the device, whose generator gives other numbers."""

    def placed(draw):
        return lambda *args, device=None, **more: draw(*args, **more).to(device or "cpu")

    def alike(draw):
        return lambda x, **more: draw(x.shape, dtype=x.dtype).to(x.device)

    with pytest.MonkeyPatch.context() as patch:
        normal, uniform = torch.randn, torch.rand
        for name in ("randn", "rand", "randint", "randperm"):
            patch.setattr(torch, name, placed(getattr(torch, name)))
        patch.setattr(torch, "randn_like", alike(normal))
        patch.setattr(torch, "rand_like", alike(uniform))
        paths = partial(reverse_sde_path, noise=torch.randn_like)  # whose default was taken when it was defined
        patch.setattr("elucid.training.losses.consistency.reverse_sde_path", paths)
        yield
