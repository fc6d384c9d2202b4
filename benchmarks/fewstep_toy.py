"""Eight methods of one step on a density that is known: how far each is from the exact map, in numbers and a picture.

    python -m benchmarks.fewstep_toy [--only=ect,dmd2] [--density=moons] [--png=docs/fewstep-toy.png]

A diffusion model of points is trained first; `ect`, `ict`, `scm` and `cd` start from it, `tcm` from ect's, `cd` and
`dmd2` learn from it, `mean_flow` and `imm` start from nothing. Each is called once, on the same noise. "map" is the
root mean square of the distance to where the probability flow takes that noise, solved to 1e-10; "energy" is the energy
distance to true points, which says something of imm and dmd2, whose map may be another. True points, the diffusion
model called once and in 18 steps stand beside them.
"""

import argparse
import time

import torch
from PIL import Image
from torch import Tensor

from elucid.evaluation.toy.densities import DENSITIES, STD, density
from elucid.evaluation.toy.flow import flowed
from elucid.evaluation.toy.measures import quality
from elucid.evaluation.toy.mixture import Mixture
from elucid.evaluation.toy.one_thread import one_thread
from elucid.evaluation.toy.picture import GAP, PAPER, REACH, Panel, picture
from elucid.evaluation.toy.training import PointRun
from elucid.training.noise.schedules import Karras
from elucid.training.preconds.base import Denoiser
from elucid.training.samplers.edm import EDMSampler

SIGMA, COUNT, BATCH, ROW = 80.0, 2000, 512, 5
"""The level of pure noise, points of a table, points of a batch, panels of a row."""

EDM = {"name": "edm", "sigma_data": STD}
NOISE = {"name": "lognormal", "P_mean": -1.1, "P_std": 2.0}
COMMON = {
    "network": {"name": "points_mlp", "hidden": 128, "num_layers": 5},
    "precond": EDM,
    "optimizer": {"name": "adam", "lr": 5e-3, "betas": [0.9, 0.99]},
    "lr_schedule": {"name": "linear"},
    "ema": {"name": "power", "stds": [0.05]},
}
DIFFUSION = {"loss": {"name": "edm", "noise": NOISE}, "steps": 6000, "lr": 1e-2}

METHODS: dict[str, dict] = {
    "ict": {"loss": {"name": "ict", "c": 0.03}, "start": "diffusion", "steps": 4000},
    "ect": {"loss": {"name": "ect", "noise": NOISE, "c": 0.03}, "start": "diffusion", "steps": 4000},
    "tcm": {"loss": {"name": "tcm", "c": 0.03}, "start": "ect", "teacher": "ect", "steps": 2000, "lr": 2e-3},
    "scm": {"loss": {"name": "scm", "noise": NOISE, "c": 1.0, "warmup": 1000}, "start": "diffusion", "steps": 4000},
    "mean_flow": {
        "loss": {"name": "mean_flow", "P_mean": 0.0, "P_std": 1.5, "norm_p": 0.0},
        "precond": {"name": "flow"},
        "steps": 5000,
        "lr": 1e-2,
    },
    "imm": {
        "loss": {"name": "imm", "k": 7, "particles": 8, "noise": {"name": "uniform_t"}},
        "precond": {"name": "imm", "time_scale": 4.0},
        "steps": 4000,
        "lr": 1e-2,
    },
    "cd": {"loss": {"name": "cd"}, "start": "diffusion", "teacher": "diffusion", "steps": 3000},
    "dmd2": {
        "loss": {"name": "dmd2", "fake_lr": 1e-2, "gan_weight": 0.0, "classifier_weight": 0.0},
        "start": "diffusion",
        "teacher": "diffusion",
        "steps": 2000,
        "lr": 5e-3,
    },
}
"""Loss, what differs from COMMON, and the models that a method starts and learns from."""


def energy(one: Tensor, other: Tensor) -> float:
    """Return the energy distance of points [N,2] and [M,2], 2 E|a - b| - E|a - a'| - E|b - b'|, of different points."""
    within = [torch.cdist(part, part).sum() / (len(part) * (len(part) - 1)) for part in (one, other)]
    return float(2 * torch.cdist(one, other).mean() - sum(within))


class Laboratory:
    """Trains models when they are first asked for."""

    def __init__(self, mixture: Mixture, share: float = 1.0, seed: int = 0):
        self.mixture, self.share, self.seed = mixture, share, seed
        self.models: dict[str, Denoiser] = {}

    def model(self, name: str | None) -> Denoiser | None:
        if name is None or name in self.models:
            return self.models.get(name or "")
        method = DIFFUSION if name == "diffusion" else METHODS[name]
        teacher = self.model(method.get("teacher"))
        start = self.model(method.get("start"))
        options = {**COMMON, "loss": dict(method["loss"]), "precond": method.get("precond", EDM)}
        if teacher is not None:
            options["loss"]["teacher"] = method["teacher"]
        if "lr" in method:
            options["optimizer"] = {**COMMON["optimizer"], "lr": method["lr"]}
        train = {"seed": self.seed, "batch": BATCH, "steps": max(int(method["steps"] * self.share), 1)}
        run = PointRun(self.mixture, options, {**train, "label_dropout": 0.0}, False, teacher, start)
        run.train(name)
        self.models[name] = run.average.eval()
        return self.models[name]


@torch.no_grad()
def once(denoiser: Denoiser, noise: Tensor) -> Tensor:
    """Return one evaluation for unit noise [N,2]; a flow map goes to level 0."""
    level = min(SIGMA, denoiser.sigma_max)
    to_data = {"sigma_to": torch.zeros(len(noise))} if "sigma_to" in denoiser.spec.vector else {}
    return denoiser((level * noise).float()[:, :, None, None], level, to_data).x0.flatten(1).double()


@torch.no_grad()
def many(denoiser: Denoiser, noise: Tensor, steps: int = 18) -> Tensor:
    """Return samples by EDM's sampler, without churn."""
    sigmas = Karras(num_steps=steps)(denoiser)
    return EDMSampler()(denoiser, (SIGMA * noise)[:, :, None, None], sigmas, torch.randn_like).flatten(1).double()


def rows_of(panels: list[Image.Image]) -> Image.Image:
    """Put pictures one below the other."""
    width, height = max(one.width for one in panels), panels[0].height + GAP
    whole = Image.new("RGB", (width, height * len(panels) - GAP), PAPER)
    for index, one in enumerate(panels):
        whole.paste(one, (0, index * height))
    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(METHODS), help="methods to train")
    parser.add_argument("--density", default="moons", choices=list(DENSITIES))
    parser.add_argument("--share", type=float, default=1.0, help="share of the steps of each training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--png", help="file for the picture")
    given = parser.parse_args()
    mixture = density(given.density)
    noise = torch.randn(COUNT, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    true, _ = mixture.sample(COUNT, torch.Generator().manual_seed(2))
    panels: list[Panel] = []
    print(f"{'':14}{'map':>8}{'energy':>10}{'off':>8}{'reached':>9}{'deviation':>11}{'CPU s':>8}", flush=True)

    def show(name: str, points: Tensor, seconds: float | None = None) -> None:
        found, distance = quality(mixture, points), energy(points, true)
        error = float((points - exact).square().sum(1).mean().sqrt())
        of_map = "-" if name == "true points" else f"{error:.4f}"
        row = f"{name:14}{of_map:>8}{distance:10.5f}{100 * found.off:7.1f}%{100 * found.reached:8.1f}%"
        print(f"{row}{found.deviation:11.3f}{'' if seconds is None else f'{seconds:8.0f}'}", flush=True)
        panels.append(Panel(name, f"distance {of_map}, energy {distance:.4f}", points))

    with one_thread():
        exact = flowed(mixture, SIGMA * noise, SIGMA)
        lab = Laboratory(mixture, given.share, given.seed)
        show("true points", mixture.sample(COUNT, torch.Generator().manual_seed(3))[0])
        panels.clear()
        show("exact map", exact)
        started = time.process_time()
        diffusion = lab.model("diffusion")
        show("called once", once(diffusion, noise), time.process_time() - started)
        show("18 steps", many(diffusion, noise))
        panels.pop()
        for name in given.only.split(","):
            started = time.process_time()
            model = lab.model(name)
            show(name, once(model, noise), time.process_time() - started)
    if given.png:
        parts = [panels[index : index + ROW] for index in range(0, len(panels), ROW)]
        rows_of([picture(mixture, part, REACH * STD) for part in parts]).save(given.png, optimize=True)


if __name__ == "__main__":
    main()
