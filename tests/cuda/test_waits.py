"""On CUDA the host waits neither in a steady step nor in a batch of sampling: torch raises an error if it does."""

import pytest
import torch

from elucid.training.guidance.classifier_free import ClassifierFreeGuidance
from elucid.training.loop import train_step
from elucid.training.noise.schedules import Karras
from elucid.training.registry.components import make
from elucid.training.sampling.generate import generate
from tests.cuda.runs import CIFAR, DEVICE, RECIPES, away_from_the_start, new_run, no_waits

COLOURS = dict.fromkeys(("brightness", "contrast", "lumaflip", "hue", "saturation"), 1)
SHAPES = dict.fromkeys(("xflip", "yflip", "rotate_int", "translate_int", "scale", "rotate_frac", "aniso"), 1)
LOSS_AWARE = {"name": "simple", "noise": {"name": "loss_aware", "history": 1}}
NEWER = ("adm", "edm2", "dit", "lightningdit", "jit", "ddt", "ict", "ect", "scm", "mean_flow", "imm")

STEPS = {
    "bf16": (CIFAR, {"precision": "bf16"}),
    "fp32": (CIFAR, {}),
    "fp16": (CIFAR, {"precision": "fp16", "loss_scale": 2.0**10}),
    "images of the host": (CIFAR, {"precision": "bf16", "cache": "none"}),
    "two passes, clipped": (CIFAR, {"precision": "bf16", "batch_gpu": 4, "max_grad_norm": 0.5}),
    "fp16, two passes, clipped": (CIFAR, {"precision": "fp16", "batch_gpu": 4, "max_grad_norm": 0.5}),
    "all of augmentation": ({**CIFAR, "augment": {"name": "pipe", **SHAPES, **COLOURS}}, {"precision": "bf16"}),
    "random crops": ({**CIFAR, "augment": None, "transforms": [{"name": "random_crop"}]}, {"precision": "bf16"}),
    "CDM": (RECIPES["cdm"], {"precision": "bf16"}),
    "patches": (RECIPES["patch"], {"precision": "bf16"}),
    "discrete levels": (RECIPES["simple"], {"precision": "bf16"}),
    "a learned variance": (RECIPES["hybrid"], {"precision": "bf16"}),
    "levels by their loss": ({**CIFAR, "precond": {"name": "ddpm"}, "loss": LOSS_AWARE}, {"precision": "bf16"}),
    **{name: (RECIPES[name], {"precision": "bf16"}) for name in NEWER},
    "deterministic": (CIFAR, {"precision": "bf16", "deterministic": True}),
}


@pytest.mark.parametrize("case", STEPS)
def test_a_steady_step_waits_for_nothing(case, tmp_path):
    parts, loop = STEPS[case]
    run = new_run(tmp_path, parts, **loop)
    try:
        for _ in range(4):
            train_step(run, run.objective)
        with no_waits():
            for _ in range(3):
                train_step(run, run.objective)
        assert run.index == 7
        run.divergence.settle()
        assert run.divergence.left_out == 0
    finally:
        run.stream.close()


SAMPLERS = {
    "edm": "edm",
    "edm2": "edm2",
    "edm with churn": {"name": "edm", "S_churn": 10.0},
    "dpmpp2m": "dpmpp2m",
    "sde": "sde",
    "ddim": "ddim",
    "ddpm": "ddpm",
    "ablation": {"name": "ablation", "process": {"name": "vp"}, "scaling": "vp"},
}


@pytest.mark.parametrize("noise", ["device", "cpu"])
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling_waits_for_nothing(sampler, guided, noise, tmp_path):
    """From the noise to the bytes of the images, in bf16, perhaps with guidance in an interval of noise levels."""
    run = new_run(tmp_path, CIFAR, precision="bf16")
    run.stream.close()
    denoiser = next(iter(run.ema.averages.values()))
    away_from_the_start(denoiser)
    used = ClassifierFreeGuidance(denoiser, 2.0, [0.1, 10.0]) if guided else denoiser
    how = {"device": DEVICE, "sampler": make(SAMPLERS[sampler], "sampler"), "schedule": Karras(5), "noise": noise}
    first = next(generate(used, run.encoder, range(4), **how))
    with no_waits():
        images = next(generate(used, run.encoder, range(4), **how)).images
    assert images.device.type == DEVICE.type and images.float().std() > 5
    assert (images.int() - first.images.int()).abs().max() <= 1


def test_torch_would_tell():
    """What these tests rely on: torch raises an error where the host reads a number of the device."""
    if DEVICE.type != "cuda":
        pytest.skip("only CUDA can tell")
    total = torch.ones(4, device=DEVICE).sum()
    with pytest.raises(RuntimeError, match="synchroniz"), no_waits():
        total.item()
