"""The two-dimensional laboratory: any loss, preconditioner, sampler and guidance on a density that is known."""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elucid.dnnlib.config import parse_chain, set_by_path
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable, write_output
from elucid.evaluation.results import Curve, Picture, Result, Series, Table
from elucid.evaluation.toy.densities import DENSITIES, STD, density
from elucid.evaluation.toy.measures import Quality, quality, score_errors
from elucid.evaluation.toy.one_thread import one_thread
from elucid.evaluation.toy.picture import REACH, Panel, picture
from elucid.evaluation.toy.training import RANGE, PointRun
from elucid.training.config.loss_chains import default_of
from elucid.training.config.options import PRECOND_ALIASES
from elucid.training.config.settings import require as require_option
from elucid.training.config.train_options import as_assignments
from elucid.training.losses.by_level import undisturbed
from elucid.training.preconds.base import Denoiser
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.registry.components import component_arguments, find, make
from elucid.training.registry.names import OPTIONS
from elucid.training.samplers.base import levels_for, state_dtype

GUIDANCES = ("none", "cfg", "interval", "autoguidance")
"""Kinds of guidance: by the model without class, the same at some noise levels, by a weaker model."""

INTERVAL = (0.02, 0.15)
"""Noise levels of the kind `interval` if none are given."""

LEVELS = [0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
PATHS = 24
CPU = torch.device("cpu")

RECIPE: dict[str, Any] = {
    "network": {"name": "points"},
    "precond": {"sigma_data": STD},
    "optimizer": {"name": "adam", "lr": 1e-2, "betas": [0.9, 0.99]},
    "ema": {"name": "power", "stds": [0.05]},
    "sampler": {},
    "schedule": {"name": "karras", "sigma_min": RANGE[0], "sigma_max": RANGE[1]},
    "guide": {},
}
"""Options that `set` changes. NOISE is for losses that draw their levels and have none of their own."""

NOISE = {"P_mean": -2.3, "P_std": 1.5}
SHORTER = 8
"""The guide is the model after so much of the training; another seed errs elsewhere, and throws far points away."""


def toy(
    density_name: str = "tree",
    *,
    loss: str | None = None,
    precond: str = "edm",
    arch: str = "points",
    sampler: str = "edm",
    guidance: str | Sequence[str] = "none",
    cfg: float = 3.0,
    guidance_interval: Sequence[float] | None = None,
    label: int | None = None,
    steps: int = 32,
    train_steps: int = 4096,
    batch: int = 1024,
    num: int = 4000,
    label_dropout: float = 0.2,
    lr: float | None = None,
    seed: int = 0,
    set: Mapping[str, Any] | Sequence[str] = (),
    dest: str | os.PathLike | None = None,
) -> Result:
    """Train a model of a known density in the plane, sample from it, and compare with the truth; about a minute.

    `density_name`: tree, moons, spiral or ring. `loss`, `precond`, `arch`, `sampler` are as for training and sampling,
    e.g. loss="mine.py:MyLoss". With a `guidance` ("cfg", "interval", "autoguidance", or several, with "none") the model
    has classes, and class `label` (0) is sampled with scale `cfg`; "interval" is "cfg" at noise levels within
    `guidance_interval`; the guide of "autoguidance" is the model after an eighth of the training, or as `set` says:
    "guide.steps", "guide.seed", and options of its network such as "guide.hidden". The value is the
    share of samples off the set. `dest`, a JSON file, gets the picture beside it. Raises UserError.
    """
    kinds = [guidance] if isinstance(guidance, str) else list(guidance)
    require(density_name, kinds, dest)
    counts = {"steps": steps, "train_steps": train_steps, "batch": batch, "num": num, "seed": seed}
    for name, least in {**dict.fromkeys(counts, 1), "num": 100, "seed": 0}.items():
        require_option(f"`{name}`", counts[name], (least, math.inf))
    require_option("`label_dropout`", label_dropout, (0, 1))
    if guidance_interval is not None and "interval" not in kinds:
        raise UserError("`guidance_interval` has no effect without `guidance`=interval; give both")
    labelled = kinds != ["none"] or label is not None
    whole = density(density_name)
    label = label or 0
    if labelled and not 0 <= label < whole.num_classes:
        raise UserError(f"`label`={label}: {density_name} has the classes 0 to {whole.num_classes - 1}")
    target = whole.of_class(label) if labelled else whole
    options = recipe(loss, precond, arch, sampler, lr, batch, set)
    train = {"seed": seed, "batch": batch, "steps": train_steps, "label_dropout": label_dropout if labelled else 0.0}
    with undisturbed(CPU), one_thread():
        run = PointRun(whole, options, train, labelled)
        losses = run.train("training")
        guide = weaker(whole, options, train, labelled) if "autoguidance" in kinds else None
        cond = {"labels": torch.eye(whole.num_classes)[[label]]} if labelled else {}
        interval = tuple(guidance_interval or INTERVAL)
        found = {}
        for kind in kinds:
            found[kind] = sampled(guided(kind, run.average, guide, cfg, interval), options, cond, num, steps, seed)
        qualities = {kind: quality(target, points) for kind, (points, _) in found.items()}
        errors = score_errors(run.average, target, cond, LEVELS)
    about = {"density": density_name, "options": options, "train": train, "cfg": cfg, "interval": list(interval)}
    about |= {"steps": steps, "num": num, "label": label if labelled else None}
    result = summary(qualities, errors, losses, about)
    if dest is None:
        return result
    path = Path(dest)
    panels = [
        Panel(
            kind, f"off {100 * qualities[kind].off:.1f} %, reached {100 * qualities[kind].reached:.1f} %", points, paths
        )
        for kind, (points, paths) in found.items()
    ]
    with write_output(path.with_suffix(".png")) as file:
        picture(target, panels, REACH * STD).save(file, format="PNG", optimize=True)
    shown = Picture(f"{density_name}: density, samples and paths", path.with_suffix(".png").name)
    result = Result(**{**vars(result), "pictures": (shown,)})
    result.save(path)
    return result


def require(name: str, kinds: Sequence[str], dest: str | os.PathLike | None) -> None:
    """Raise UserError for names that do not exist, and a file that cannot be written."""
    if name not in DENSITIES:
        raise UserError(f"`density`={name} is unknown; choose from {', '.join(DENSITIES)}")
    if not kinds:
        raise UserError(f"`guidance` is empty; choose from {', '.join(GUIDANCES)}")
    for kind in kinds:
        if kind not in GUIDANCES:
            raise UserError(f"`guidance`={kind} is unknown; choose from {', '.join(GUIDANCES)}")
    if dest is not None:
        if Path(dest).suffix != ".json":
            raise UserError(f"`dest`={dest} must end in .json; the picture is written beside it")
        require_writable(dest)


def recipe(
    loss: str | None, precond: str, arch: str, sampler: str, lr: float | None, batch: int, changes: Any
) -> dict[str, Any]:
    """Return the components of the training, with the changes of `set`."""
    precond, alias = PRECOND_ALIASES.get(precond, (precond, None))
    chain = parse_chain(loss or alias or default_of(precond, "default_loss") or "edm")
    options = {part: dict(values) for part, values in RECIPE.items()}
    options["network"]["name"], options["precond"]["name"], options["sampler"]["name"] = arch, precond, sampler
    if default_of(precond, "sigma_data") is None and precond not in ("edm", "edm2"):
        options["precond"].pop("sigma_data")
    if lr is not None:
        options["optimizer"]["lr"] = lr
    options["lr_schedule"] = {"name": "inverse_sqrt", "warmup_kimg": 0, "reference_mimg": 512 * batch / 1e6}
    options["loss"] = chain
    inner = chain
    while isinstance(inner.get("base"), dict):
        inner = inner["base"]
    draws = component_arguments(find("loss", inner["name"])).get("noise") == "noise"
    if draws and "noise" not in OPTIONS["loss"].get(inner["name"], {}):
        inner["noise"] = {"name": "lognormal", **NOISE}
    for assignment in as_assignments(changes):
        part, _, name = assignment.partition("=")[0].partition(".")
        if name == "name":  # the recipe's options are those of its own component
            options[part] = {}
        set_by_path(options, assignment)
    return options


def weaker(whole, options: dict[str, Any], train: dict[str, Any], labelled: bool) -> Denoiser:
    """Train the guide of autoguidance, by default as the model for fewer steps. Raises UserError for its options."""
    given = {"steps": max(train["steps"] // SHORTER, 1), "seed": train["seed"], **options["guide"]}
    steps, seed = given.pop("steps"), given.pop("seed")
    for name, value, least in (("steps", steps, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or value < least:
            raise UserError(f"guide.{name}={value!r} must be a whole number of at least {least}")
    short = {**train, "steps": steps, "seed": seed}
    run = PointRun(whole, {**options, "network": {**options["network"], **given}}, short, labelled)
    run.train("training the guide")
    return run.average


def guided(kind: str, denoiser: Denoiser, guide: Denoiser | None, scale: float, interval: tuple):
    """Return the denoiser with a kind of guidance."""
    if kind == "none":
        return denoiser
    if kind == "autoguidance":
        return make({"name": "autoguidance", "scale": scale}, "guidance", denoiser=denoiser, guide=guide)
    ends = {"interval": list(interval)} if kind == "interval" else {}
    return make({"name": "cfg", "scale": scale, **ends}, "guidance", denoiser=denoiser)


@torch.no_grad()
def sampled(denoiser, options: dict, cond: dict, num: int, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return samples [N,2], and paths [steps,some,2]; all kinds of guidance start from the same noise."""
    schedule, sampler = make(options["schedule"], "schedule"), make(options["sampler"], "sampler")
    sigmas = levels_for(sampler, schedule, denoiser, steps)
    sampler = sampler.for_schedule(schedule, denoiser)
    torch.manual_seed(seed)
    x = torch.randn(num, 2, 1, 1).to(state_dtype(CPU)) * sigmas[0].item()
    path: list[Tensor] = []
    bound = BoundDenoiser(denoiser, {name: value.expand(num, -1) for name, value in cond.items()})
    x = sampler(bound, x, sigmas, torch.randn_like, lambda x, sigma, x0: path.append(x[:PATHS].flatten(1)))
    points = x.flatten(1)
    if not bool(points.isfinite().all()):
        raise UserError(f"samples of {type(denoiser).__name__} are not finite; train longer, or lower `cfg`")
    return points, torch.stack([*path, points[:PATHS]])


def summary(qualities: dict[str, Quality], errors: list[float], losses: list, about: dict) -> Result:
    """Return tables and curves of what was found."""
    rows = tuple((kind, *vars(one).values()) for kind, one in qualities.items())
    columns = ("guidance", "off the set", "ln p", "ln p, lowest 5 %", "reached", "deviation")
    levels = tuple(zip(LEVELS, errors, strict=True))
    tables = (
        Table("samples; deviation as a share of the truth's", columns, rows),
        Table("error of the score, as a share of it", ("sigma", "error"), levels),
    )
    curves = (
        Curve("error of the score", "sigma", "share", (Series("model", levels),), log_x=True, log_y=True),
        Curve("training loss", "thousand points", "loss", (Series("loss", tuple(losses)),)),
    )
    first = next(iter(qualities.values()))
    return Result("toy", "off", first.off, tables=tables, curves=curves, about=about)
