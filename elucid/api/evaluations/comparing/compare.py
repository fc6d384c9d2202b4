"""Compares recipes by trainings with several seeds each, and says whether they differ."""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from elucid.api.evaluations.comparing.comparison import Comparison
from elucid.dnnlib.errors import UserError
from elucid.evaluation.compare.report import lower_is_better, result_of
from elucid.evaluation.compare.typed import typed_groups
from elucid.evaluation.compare.verdict import Rules, judged_by_holm
from elucid.evaluation.results import Result
from elucid.evaluation.trainings.cells import BLOCKS, TRAININGS, TUNING_SEEDS, Scoring, Tuning
from elucid.evaluation.trainings.plan import Plan
from elucid.evaluation.trainings.recipes import recipes_of
from elucid.metrics.measures.names import metric_names

FIRST_OF = {"pr": "precision", "dc": "density"}
"""The first value of a metric that has several."""
FIXED_BETA, SEQUENTIAL_BETA = 0.3, 0.025


def compare(
    recipes: Sequence[str] = (),
    *,
    outdir: str | os.PathLike | None = None,
    data: str | os.PathLike | None = None,
    ref: str | os.PathLike | None = None,
    scores: Sequence[str] = (),
    cv: float | None = None,
    seeds: int = 10,
    first_look: int = 3,
    sampling_seeds: int = 3,
    num: int = 5000,
    metrics: str | Sequence[str] = "fid",
    detector: str | None = None,
    detector_weights: str | None = None,
    match: str = "images",
    duration: float | None = None,
    seed: int = 0,
    sampling: Sequence[str] = (),
    tune: tuple[str, float, float] | None = None,
    tune_num: int = 500,
    sequential: bool | None = None,
    alpha: float = 0.025,
    beta: float | None = None,
    detect: float = 2.0,
    margin: float | None = None,
    jobs: int = 1,
    processes: int = 1,
    slurm: Mapping[str, Any] | None = None,
    device: str | None = None,
    log: Callable[[str], None] | None = None,
) -> Result:
    """Train two or more recipes with several seeds each, score them, and give a verdict on their difference.

    A recipe is a preset, a quoted list of train.py's flags, a file of flags, or run folders, named as in `edm: ...`.
    A recipe is a preset, quoted flags of train.py, a file of flags, or run folders, and may be named: `edm: ...`.
    default `data`; all is kept in `outdir`, and a second call goes on. The first of `metrics` decides, and all recipes
    are compared with the first one. `match`: "images" trains all on as many images, "time" for as long; `duration`, in
    millions of images, is the first one's. `sampling` are flags of fid.py; `tune` = (flag, low, high) chooses one for
    each training, on `tune_num` other images. `sequential`, the default unless all recipes are finished runs, stops at
    the first look, from `first_look` trainings each, that settles the answer. `alpha` is the probability of a false
    "different", `beta` that of a false "not different" if the gap is `detect` standard deviations between trainings;
    `margin` is a difference that would not matter. With `scores` ("A: 1.77,1.79"), nothing is trained; `cv` is a
    coefficient of variation between trainings to assume. Raises UserError for bad input, and for trainings that failed.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(f"start the comparison without torchrun; `processes`={os.environ['WORLD_SIZE']} uses it")
    names = metric_names(metrics)
    require_probability("alpha", alpha)
    if detect <= 0:
        raise UserError(f"`detect`={detect:g} must be above 0; 2 standard deviations are usual")
    if margin is not None and margin <= 0:
        raise UserError(f"`margin`={margin:g} must be above 0, in units of the score")
    if scores:
        if recipes:
            raise UserError("`scores` are typed in, so nothing is trained; leave the recipes out, or `scores`")
        rules = Rules(alpha, require_probability("beta", FIXED_BETA if beta is None else beta), detect, margin)
        return of_scores(scores, names[0], cv, rules)
    if outdir is None:
        raise UserError("`outdir` is missing; give a folder for trainings and scores, e.g. `outdir`=cmp")
    if match not in ("images", "time"):
        raise UserError(f"`match`={match}: give images or time")
    chosen = recipes_of(recipes)
    trains = any(not recipe.runs for recipe in chosen)
    if trains and data is None and not all(recipe.runs or recipe.given("data") for recipe in chosen):
        raise UserError("`data` is missing; create a dataset with dataset_tool.py and give its path")
    in_turn = (trains and cv is None) if sequential is None else sequential and trains
    if in_turn and cv is not None:
        raise UserError("`cv` assumes the spread between trainings, `sequential` measures it; leave one of them out")
    beta = require_probability("beta", beta if beta is not None else SEQUENTIAL_BETA if in_turn else FIXED_BETA)
    require_counts(seeds, sampling_seeds, num, cv, len(chosen))
    down = lower_is_better(FIRST_OF.get(names[0], names[0]))
    tuning = None if tune is None else Tuning(*tune, num=tune_num)
    placed = () if device is None else (f"--device={device}",)
    scoring = Scoring((f"--metrics={','.join(names)}", *sampling, *placed), num, sampling_seeds, down, tuning)
    plan = Plan(tuple(chosen), Path(outdir), scoring, None if data is None else os.fspath(data), seed, placed)
    plan = replace(plan, processes=processes)
    comparison = Comparison(
        plan,
        Rules(alpha, beta, detect, margin),
        seeds=seeds,
        first_look=first_look if in_turn else None,
        assumed_cv=cv,
        jobs=jobs,
        slurm=slurm,
        log=log or to_stderr,
    )
    comparison.prepare(ref if ref is not None else data, names, detector, detector_weights, match, duration)
    return comparison.run()


def to_stderr(text: str) -> None:
    """Print a note, above the progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


def of_scores(scores: Sequence[str], metric: str, cv: float | None, rules: Rules) -> Result:
    """Return the verdict on scores that are typed in."""
    groups = typed_groups(scores, cv)
    notes = [] if cv is None else [f"a coefficient of variation of {100 * cv:g} % between trainings is assumed"]
    down = lower_is_better(FIRST_OF.get(metric, metric))
    verdicts = judged_by_holm(metric, groups, rules, down)
    about = {
        "scores": {group.name: group.means for group in groups},
        "cv": cv,
        "alpha": rules.alpha,
        "beta": rules.beta,
    }
    return result_of({metric: verdicts}, {metric: groups}, notes, about)


def require_probability(name: str, value: float) -> float:
    """Return the value. Raises UserError unless it is above 0 and below a half."""
    if not 0 < value < 0.5:
        raise UserError(f"`{name}`={value:g} is not a probability of an error; give e.g. 0.025")
    return value


def require_counts(seeds: int, sampling_seeds: int, num: int, cv: float | None, recipes: int) -> None:
    """Raise UserError for numbers of seeds or images with which there is no verdict."""
    if seeds > TRAININGS:
        raise UserError(f"`seeds`={seeds}: at most {TRAININGS} trainings of a recipe")
    if seeds < 2 and cv is None:
        raise UserError(
            f"`seeds`={seeds}: one training does not tell the spread between trainings; give at least 2, or assume "
            "it by `cv`=1.3%"
        )
    if not 1 <= sampling_seeds <= BLOCKS:
        raise UserError(f"`sampling_seeds`={sampling_seeds}: give 1 to {BLOCKS}")
    if recipes * TRAININGS * BLOCKS * num > TUNING_SEEDS:
        most = TUNING_SEEDS // (recipes * TRAININGS * BLOCKS)
        raise UserError(f"`num`={num}: there are not so many different seeds; give at most {most} images in a block")
