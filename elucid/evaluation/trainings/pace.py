"""Equal training time: short runs of each recipe measure its seconds per image."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from elucid.dnnlib.errors import UserError
from elucid.evaluation.trainings.cells import TRAININGS, Cell, rows_of
from elucid.evaluation.trainings.plan import Plan

REPEATS = 2
"""Probes of each recipe, in the order A B, B A: a drift of the machine's speed meets both alike."""
SHARE = 0.05
"""Length of a probe as a share of the training."""
LEAST_STEPS = 12
TICKS = 4


def probes(plan: Plan, options: Sequence[dict[str, Any] | None], mimg: float) -> list[Cell]:
    """Return the short runs, in the order in which they are made; `mimg` is the length of the first's training."""
    trains = [index for index, one in enumerate(options) if one is not None]
    return [
        _probe(plan, recipe, repeat, options[recipe] or {}, mimg)
        for repeat in range(REPEATS)
        for recipe in (trains if repeat % 2 == 0 else reversed(trains))
    ]


def _probe(plan: Plan, recipe: int, repeat: int, options: dict[str, Any], mimg: float) -> Cell:
    name = plan.recipes[recipe].name
    folder = plan.outdir / name / f"probe-{repeat}"
    mimg = max(SHARE * mimg, LEAST_STEPS * options["loop"]["batch_size"] / 1e6)
    short = (f"--duration={mimg:.8g}", f"--tick={1000 * mimg / TICKS:.8g}", "--snap=0", "--dump=0")
    place = (f"--seed={repeat}", f"--outdir={folder / 'run'}", "--nosubdir", "--resume=auto")
    flags = (*plan.common(recipe), *short, "--set=loop.grid_images=0", *place)
    scoring = replace(plan.scoring, blocks=0)
    return Cell(f"probe of {name}", repeat, recipe * TRAININGS, folder, folder / "run", scoring, flags, plan.processes)


def seconds_per_image(run: Path) -> float:
    """Return the pace of a run after its first tick, in which it starts. Raises UserError if its log does not say."""
    rows = rows_of(run)
    kimg = [row["Progress/kimg"]["mean"] for row in rows]
    seconds = [row["Timing/total_sec"]["mean"] for row in rows]
    if len(rows) < 2 or kimg[-1] <= kimg[0] or seconds[-1] <= seconds[0]:
        raise UserError(f"{run}/stats.jsonl does not tell the seconds per image; give `match`=images")
    return (seconds[-1] - seconds[0]) / (kimg[-1] - kimg[0]) / 1000


def equal_time(
    plan: Plan, options: Sequence[dict[str, Any] | None], mimg: float, run: Callable[[Sequence[Cell]], None]
) -> tuple[list[float | None], list[str]]:
    """Return the lengths of trainings, in millions of images, that take as long as `mimg` of the first recipe.

    Also returns lines that say what was measured.
    """
    cells = probes(plan, options, mimg)
    run(cells)
    paces: dict[int, list[float]] = {}
    for cell in cells:
        paces.setdefault(cell.number // TRAININGS, []).append(seconds_per_image(cell.network))
    mean = {recipe: statistics.fmean(values) for recipe, values in paces.items()}
    first = next(iter(sorted(mean)))
    durations = [mimg * mean[first] / mean[recipe] if recipe in mean else None for recipe in range(len(options))]
    lines = [
        f"{plan.recipes[recipe].name}: {' and '.join(f'{1000 * value:.4g}' for value in paces[recipe])} ms per image "
        f"in {REPEATS} probes, so {1000 * (durations[recipe] or 0):.4g} kimg each"
        for recipe in sorted(mean)
    ]
    return durations, ["matched by time, as long as the first recipe takes:", *lines]
