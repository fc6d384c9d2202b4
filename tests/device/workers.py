"""A process with the simulated device: runs the cases named, and writes what each gives as JSON.

Arguments: folder to work in, file to write, names of cases.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path

import torch

from elucid.metrics.detectors import make_detector
from elucid.metrics.measures.collect import Wanted, collect
from elucid.torch_utils.rng import seed_everything
from elucid.training.guidance.classifier_free import ClassifierFreeGuidance
from elucid.training.guidance.distilled import DistilledGuidance
from elucid.training.loop import train_step
from elucid.training.losses.dsm import DSM
from elucid.training.networks.kernels import dropout
from elucid.training.registry.components import make
from elucid.training.run import Run
from elucid.training.sampling.generate import generate
from elucid.training.saving import on_host
from elucid.training.types import LossOutput
from tests import transformers
from tests.device import simulated
from tests.small_runs import NETWORK, options, pictures

STEPS = 2
"""Steps that are counted, after one that creates the state of the optimizer."""

CIFAR = {"network": NETWORK, "augment": {"name": "edm", "p": 0.12}, "loss": {"name": "edm"}}
"""The recipe of CIFAR-10 with a tiny network: EDM's loss, augmentation, classes, Adam, EMA."""

EDM2 = {
    "network": {**NETWORK, "name": "edm2", "channels_per_head": 16},
    "augment": None,
    "precond": {"name": "edm2"},
    "loss": {"name": "uncertainty", "base": {"name": "edm"}},
}
"""EDM2's network and learned weighting."""

SQUARES = {"name": str(Path(__file__).parents[1] / "probes/tokens.py:Squares")}
ALIGNED = {
    "network": {"name": "transformer", "model_channels": 32, "depth": 2, "num_heads": 2, "patch": 4},
    "loss": {
        "name": "perceptual",
        "base": {"name": "alignment", "base": {"name": "edm"}, "features": SQUARES, "layer": "block1", "width": 32},
        "features": SQUARES,
    },
}
"""A transformer, and losses that compare it with a frozen encoder."""
JIT = {"network": transformers.small("jit", dropout=0.1)}
DDT = {"network": transformers.small("ddt")}
"""Transformers, with EDM's loss and augmentation."""


def new_run(folder: Path, device: torch.device, parts: dict, **loop) -> Run:
    return Run(options(folder, parts, {"cache": "none"}, channels_last=False, **loop), device)


def trained(folder: Path, parts: dict, **loop) -> dict:
    """Count steady steps, and compare the weights after them with those of the CPU."""
    weights, losses = [], []
    for device in (torch.device("cpu"), simulated.register()):
        run = new_run(folder, device, parts, **loop)
        train_step(run, run.objective)
        with simulated.counting() as counts:
            for _ in range(STEPS):
                train_step(run, run.objective)
        run.stream.close()
        average = next(iter(run.ema.averages.values()))
        weights.append(torch.cat([one.detach().to("cpu").flatten() for one in average.parameters()]))
        losses.append(run.stats.collect()["Loss/loss"]["mean"])
    difference = float((weights[0] - weights[1]).abs().max())
    weights = len(list(run.denoiser.parameters()))
    return {**counts.as_dict(), "steps": STEPS, "difference": difference, "losses": losses, "weights": weights}


def sampled(
    folder: Path,
    sampler: str | dict = "edm",
    interval=(0.1, 10.0),
    parts=None,
    schedule: str | dict = "karras",
    guidance=ClassifierFreeGuidance,
    **how,
) -> dict:
    """Count one batch of guided sampling, and compare the images with those of the CPU."""
    images = []
    for device in (torch.device("cpu"), simulated.register()):
        run = new_run(folder, device, parts or CIFAR)
        seed_everything(0)
        denoiser = next(iter(run.ema.averages.values()))
        for parameter in denoiser.parameters():  # away from the zeros of the initialisation
            torch.nn.init.normal_(parameter.data, std=0.1)
        guided, levels = guidance(denoiser, 2.0, list(interval)), make(schedule, "schedule")
        levels.num_steps = 4
        with simulated.counting() as counts:
            made = make(sampler, "sampler")
            batch = next(generate(guided, run.encoder, range(4), device=device, sampler=made, schedule=levels, **how))
        run.stream.close()
        images.append(batch.images.to("cpu").int())
    return {**counts.as_dict(), "difference": int((images[0] - images[1]).abs().max())}


def itself(folder: Path) -> dict:
    """What the simulated device refuses and counts, by kind."""
    device = simulated.register()
    on_device, mask, index = torch.ones(3, device=device), torch.zeros(3, device=device) > 0, torch.tensor([0, 2])
    doings = {
        "sum of two devices": lambda: on_device + torch.ones(3),
        "product with a number": lambda: on_device * 2,
        "product with a scalar of the host": lambda: on_device * torch.tensor(2.0),
        "a number from the host": lambda: torch.tensor(2.0, device=device),
        "item": lambda: on_device.sum().item(),
        "truth": lambda: bool(mask.any()),
        "tolist": lambda: on_device.tolist(),
        "copy to the host": lambda: on_device.cpu(),
        "copy to the host, later": lambda: on_device.to("cpu", non_blocking=True),
        "copy to the device": lambda: torch.ones(3).to(device),
        "copy to the device, later": lambda: torch.ones(3).to(device, non_blocking=True),
        "mask": lambda: on_device[mask],
        "index on the host": lambda: on_device[index],
        "nonzero": lambda: mask.nonzero(),
        "view": lambda: on_device.reshape(3, 1).expand(3, 2),
    }
    seen = {}
    for name, do in doings.items():
        with simulated.counting() as counts:
            try:
                do()
                seen[name] = [sum(counts.waits.values()), counts.to_device, counts.to_host, counts.launches]
            except RuntimeError as error:
                seen[name] = str(error)
    return seen


def bad_step(folder: Path) -> dict:
    """Make the loss of the second of three steps NaN: what it leaves, and when it is counted."""
    run = new_run(folder, simulated.register(), CIFAR, max_grad_norm=1.0)
    said, forward, seen = [], run.loss.forward, {"left_out": []}
    run.log = said.append
    train_step(run, run.objective)
    for index in range(3):
        bad = torch.nan if index == 1 else 1.0
        run.loss.forward = lambda *args, bad=bad: LossOutput(forward(*args).loss * bad)
        before = everything(run)
        with simulated.counting() as counts:
            train_step(run, run.objective)
        changed = [not torch.equal(one, other) for one, other in zip(before, everything(run), strict=True)]
        seen["left_out"].append(run.divergence.left_out)
        seen[f"changed {index}"] = sum(changed) / len(changed)
    run.stream.close()
    return {**seen, **counts.as_dict(), "said": said}


def everything(run: Run) -> list[torch.Tensor]:
    """Copies of the weights, averages and moments on the device, and of the count of the optimizer's steps."""
    averages = [one for average in run.ema.averages.values() for one in average.parameters()]
    moments = [one for state in run.optimizers["main"].optimizer.state.values() for one in state.values()]
    return [one.detach().cpu().clone() for one in [*run.denoiser.parameters(), *averages, *moments]]


def resumed(folder: Path) -> dict:
    """Save the state of a run on the device, and go on with it on the CPU and on the device."""
    ends = []
    run = new_run(folder, simulated.register(), CIFAR)
    train_step(run, run.objective)
    state = on_host(run.state_dict())
    for device in (run.device, torch.device("cpu")):
        other = new_run(folder, device, CIFAR)
        other.resume(state)
        train_step(other, other.objective)
        other.stream.close()
        ends.append(torch.cat([one.detach().cpu().flatten() for one in other.denoiser.parameters()]))
        fused = {group["fused"] for group in other.optimizers["main"].optimizer.param_groups}
        assert fused == {True if device.type == "sim" else None}, "the kernel is that for the device"
    run.stream.close()
    return {"difference": float((ends[0] - ends[1]).abs().max())}


def scored(folder: Path) -> dict:
    """Count the scoring of images of the host and of the device, and compare the statistics with those of the CPU."""
    images = torch.randint(256, (600, 3, 16, 16), dtype=torch.uint8)
    wanted = [Wanted(frozenset({"features"}), frozenset({"features"}))]
    found, counted = [], {}
    for name in ("cpu", "host", "device"):
        device = torch.device("cpu") if name == "cpu" else simulated.register()
        detectors = [make_detector("random", device)]
        batches = images.to(device).split(64) if name == "device" else images.split(64)
        with simulated.counting() as counts:
            found.append(collect(detectors, wanted, batches, range(len(images)), len(images))[0])
        counted[name] = counts.as_dict()
    exact, *others = found
    differences = [
        float((one.statistics["features"].scatter.cpu() / exact.statistics["features"].scatter - 1).abs().max())
        for one in others
    ] + [float((one.rows["features"] - exact.rows["features"]).abs().max()) for one in others]
    return {**counted, "difference": max(differences), "digests": [one.sha256 for one in found]}


IMM = {"network": NETWORK, "precond": {"name": "imm"}, "loss": {"name": "imm"}, "augment": None}
"""A flow map, trained by moments of particles."""


class Scaled(DSM):
    """A loss that tells the network a scale of guidance."""

    def adapt(self, spec):
        return spec.with_vector("guidance_scale", 1)


SCALED = {**CIFAR, "loss": {"name": "tests.device.workers:Scaled"}}
LOSS_AWARE = {"name": "simple", "noise": {"name": "loss_aware", "history": 1}}
CDM = {"name": "cdm", "martingale_steps": 3, "base": {"name": "edm"}}
COLOURS = dict.fromkeys(("brightness", "contrast", "lumaflip", "hue", "saturation"), 1)
SHAPES = dict.fromkeys(("xflip", "yflip", "rotate_int", "translate_int", "scale", "rotate_frac", "aniso"), 1)
DROPOUT = {"path": None, "use_labels": True, "cache": "none", "xflip": True, "label_dropout": 0.3}
SAMPLERS = {
    "edm": "edm",
    "churn": {"name": "edm", "S_churn": 10.0},
    "ablation": {"name": "ablation", "process": {"name": "vp"}, "scaling": "vp"},
    "sde": "sde",
    "ddpm": "ddpm",
}

CASES = {
    "itself": itself,
    "bad step": bad_step,
    "resumed": resumed,
    "scored": scored,
    "edm": lambda folder: trained(folder, CIFAR),
    "accumulated": lambda folder: trained(folder, CIFAR, batch_gpu=4, max_grad_norm=0.1),
    "bf16": lambda folder: trained(folder, CIFAR, precision="bf16"),
    "augmentation": lambda folder: trained(folder, {**CIFAR, "augment": {"name": "pipe", **SHAPES, **COLOURS}}),
    "transforms": lambda folder: trained(
        folder,
        {
            **{**CIFAR, "augment": None, "transforms": [{"name": "random_crop"}]},
            "dataset": {**DROPOUT, "path": str(folder / "pictures")},
        },
    ),
    "discrete": lambda folder: trained(folder, {**CIFAR, "precond": {"name": "ddpm"}, "loss": LOSS_AWARE}),
    "cdm": lambda folder: trained(
        folder, {**CIFAR, "loss": {"name": "cdm", "martingale_steps": 3, "base": {"name": "edm"}}}
    ),
    "edm2": lambda folder: trained(folder, EDM2),
    "aligned": lambda folder: trained(folder, ALIGNED),
    "jit": lambda folder: trained(folder, {**CIFAR, **JIT}),
    "ddt": lambda folder: trained(folder, {**CIFAR, **DDT}),
    "patch": lambda folder: trained(folder, {**CIFAR, "loss": {"name": "patch", "base": {"name": "edm"}}}),
    "images on the device": lambda folder: trained(
        folder, {**CIFAR, "dataset": {"path": str(folder / "pictures"), "use_labels": True, "cache": "gpu"}}
    ),
    "sampling, noise of the host": lambda folder: sampled(folder, SAMPLERS["churn"], noise="cpu"),
    **{f"sampling, {name}": partial(sampled, sampler=one) for name, one in SAMPLERS.items()},
    "imm": lambda folder: trained(folder, IMM),
    "sampling, flow_map": partial(sampled, sampler="flow_map", schedule="flow_map", parts=IMM),
    "sampling, consistency": partial(sampled, sampler="consistency", schedule="flow_map", parts=IMM),
    "sampling, distilled": partial(sampled, parts=SCALED, guidance=DistilledGuidance),
}


def main(folder: Path, output: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    dropout.Dropout.at_once = False  # so that both devices drop the same
    os.environ["ELUCID_CACHE"] = str(folder / "cache")
    pictures(folder)
    output.write_text(json.dumps({name: CASES[name](folder) for name in names}, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or list(CASES))
