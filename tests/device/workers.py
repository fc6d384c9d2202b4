"""A process with the simulated device: runs the cases named, and writes what each gives as JSON.

Arguments: folder to work in, file to write, names of cases.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from elucid.torch_utils.rng import seed_everything
from elucid.training.guidance.classifier_free import ClassifierFreeGuidance
from elucid.training.loop import train_step
from elucid.training.noise.schedules import Karras
from elucid.training.registry.components import make
from elucid.training.run import Run
from elucid.training.sampling.generate import generate
from tests.device import simulated

STEPS = 3
"""Steps that are counted, after two that create the state of the optimizer."""

NETWORK = {"name": "ddpmpp", "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8]}
CIFAR = {"network": NETWORK, "augment": {"name": "edm", "p": 0.12}, "loss": {"name": "edm"}}
"""The recipe of CIFAR-10 with a tiny network: EDM's loss, augmentation, classes, Adam, EMA."""


def pictures(folder: Path) -> Path:
    """Sixteen pictures of 16x16 in four folders, one for each class."""
    generator = np.random.default_rng(0)
    for index in range(16):
        path = folder / "pictures" / f"class{index % 4}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return folder / "pictures"


def new_run(folder: Path, device: torch.device, parts: dict, **loop) -> Run:
    rest = {
        "encoder": {"name": "rgb"},
        "precond": {"name": "edm"},
        "optimizer": {"name": "adam", "lr": 1e-3},
        "lr_schedule": {"name": "constant", "warmup_kimg": 0.01},
        "ema": {"name": "halflife", "halflife_mimg": [0.5, 0.1]},
        "sampler": "edm",
        "schedule": "karras",
        "dataset": {"path": str(folder / "pictures"), "use_labels": True, "cache": "none"},
        "loop": {"batch_size": 8, "duration_mimg": 1e-3, "seed": 1, "bench": False, **loop},
    }
    return Run({**rest, **parts}, device)


def trained(folder: Path, parts: dict, **loop) -> dict:
    """Count steady steps, and compare the weights after them with those of the CPU."""
    weights = []
    for device in (torch.device("cpu"), simulated.register()):
        run = new_run(folder, device, parts, **loop)
        for _ in range(2):
            train_step(run, run.objective)
        with simulated.counting() as counts:
            for _ in range(STEPS):
                train_step(run, run.objective)
        run.stream.close()
        average = next(iter(run.ema.averages.values()))
        weights.append(torch.cat([one.detach().to("cpu").flatten() for one in average.parameters()]))
        losses = run.stats.collect()["Loss/loss"]
    return {**counts.as_dict(), "steps": STEPS, "difference": float((weights[0] - weights[1]).abs().max()), **losses}


def sampled(folder: Path, sampler: str | dict = "edm", interval=(0.1, 10.0)) -> dict:
    """Count one batch of guided sampling, and compare the images with those of the CPU."""
    images = []
    for device in (torch.device("cpu"), simulated.register()):
        run = new_run(folder, device, CIFAR)
        seed_everything(0)
        denoiser = next(iter(run.ema.averages.values()))
        for parameter in denoiser.parameters():  # away from the zeros of the initialisation
            torch.nn.init.normal_(parameter.data, std=0.1)
        guided = ClassifierFreeGuidance(denoiser, 2.0, list(interval))
        with simulated.counting() as counts:
            made = make(sampler, "sampler")
            batch = next(generate(guided, run.encoder, range(4), device=device, sampler=made, schedule=Karras(5)))
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


CASES = {
    "itself": itself,
    "edm": lambda folder: trained(folder, CIFAR),
    "accumulated": lambda folder: trained(folder, CIFAR, batch_gpu=4),
    "sampling": lambda folder: sampled(folder),
}


def main(folder: Path, output: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    pictures(folder)
    output.write_text(json.dumps({name: CASES[name](folder) for name in names}, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:] or list(CASES))
