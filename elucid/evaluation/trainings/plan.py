"""The plan of a comparison: its cells, and the file that refuses another plan in the same folder."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import write_output
from elucid.evaluation.trainings.cells import TRAININGS, Cell, Command, Scoring
from elucid.evaluation.trainings.jobs import run_command
from elucid.evaluation.trainings.recipes import Recipe

FILE = "plan.json"
SEEDS_BETWEEN = 1000
"""Training seeds of one recipe and the next are so far apart: no two trainings of a comparison share one."""


@dataclass(frozen=True)
class Plan:
    """What is compared, where and how: the recipes, the data they train on, and how trainings are scored.

    `durations` are the lengths of their trainings in millions of images, and `train_flags` are added to all.
    Each training has `processes` processes.
    """

    recipes: tuple[Recipe, ...]
    outdir: Path
    scoring: Scoring
    data: str | None = None
    seed: int = 0
    train_flags: tuple[str, ...] = ()
    durations: tuple[float | None, ...] = ()
    processes: int = 1

    def size(self, recipe: int, seeds: int) -> int:
        """Return the number of trainings of a recipe among the first `seeds`: those of finished runs are all."""
        return len(self.recipes[recipe].runs) or seeds

    def cell(self, recipe: int, index: int) -> Cell:
        """Return a training of a recipe."""
        one, number = self.recipes[recipe], recipe * TRAININGS + index
        if one.runs:
            folder = self.outdir / one.name / f"run-{index}"
            return Cell(one.name, index, number, folder, Path(one.runs[index]), self.scoring, None, self.processes)
        seed = self.seed + recipe * SEEDS_BETWEEN + index
        folder = self.outdir / one.name / f"seed-{seed}"
        flags = self.flags(recipe, folder / "run", seed)
        return Cell(one.name, seed, number, folder, folder / "run", self.scoring, flags, self.processes)

    def flags(self, recipe: int, run: Path, seed: int) -> tuple[str, ...]:
        """Return the flags of train.py of one training."""
        duration = self.durations[recipe] if self.durations else None
        length = () if duration is None else (f"--duration={duration:.8g}",)
        place = (f"--seed={seed}", f"--outdir={run}", "--nosubdir", "--resume=auto")
        return (*self.common(recipe), *length, *place)

    def common(self, recipe: int) -> tuple[str, ...]:
        """Return the flags that all trainings of a recipe share."""
        own = self.recipes[recipe].flags
        data = () if self.data is None or self.recipes[recipe].given("data") else (f"--data={self.data}",)
        return (*own, *data, *self.train_flags)

    def cells(self, recipes: Sequence[int], seeds: int) -> list[Cell]:
        """Return the trainings of recipes, the recipes in turn, in alternating order: what drifts meets all alike."""
        most = max(self.size(recipe, seeds) for recipe in recipes)
        return [
            self.cell(recipe, index)
            for index in range(most)
            for recipe in (recipes if index % 2 == 0 else reversed(recipes))
            if index < self.size(recipe, seeds)
        ]


def checked_options(plan: Plan) -> list[dict[str, Any] | None]:
    """Return the resolved options of each recipe that trains, by a dry run; those of the plan's file where it has them.

    Raises UserError for flags or data that train.py refuses, and for a plan that contradicts the file.
    """
    kept = read(plan.outdir)
    require_same(plan, kept)
    known = {one["name"]: one["options"] for one in kept["recipes"]} if kept else {}
    return [
        None if recipe.runs else known.get(recipe.name) or _dry_run(recipe, plan.common(index))
        for index, recipe in enumerate(plan.recipes)
    ]


def _dry_run(recipe: Recipe, flags: Sequence[str]) -> dict[str, Any]:
    try:
        output = run_command(Command(("train", *flags, "--dry-run"), "dry run"))
    except UserError as error:
        raise UserError(f"recipe {recipe.name}: {error}") from error
    options, _ = json.JSONDecoder().raw_decode(output[output.index("{") :])
    return options


def read(outdir: Path) -> dict[str, Any] | None:
    """Return what the plan's file in a folder holds; None if there is none. Raises UserError for a damaged one."""
    try:
        return json.loads((outdir / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{outdir / FILE} cannot be read ({error}); choose another `outdir`") from error


def record(plan: Plan, options: Sequence[dict[str, Any] | None], durations: dict[str, Any] | None) -> None:
    """Write the plan's file."""
    recipes = [{**asdict(recipe), "options": one} for recipe, one in zip(plan.recipes, options, strict=True)]
    content = {"recipes": recipes, "settings": settings(plan), "durations": durations}
    with write_output(plan.outdir / FILE) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")


def settings(plan: Plan) -> dict[str, Any]:
    """Return what all scores depend on; the number of sampling seeds may grow."""
    scoring = asdict(replace(plan.scoring, blocks=0))
    return json.loads(json.dumps({"data": plan.data, "seed": plan.seed, "train_flags": plan.train_flags, **scoring}))


def require_same(plan: Plan, kept: dict[str, Any] | None) -> None:
    """Raise UserError if the folder holds a comparison of other recipes, or with other settings."""
    if kept is None:
        return
    for index, old in enumerate(kept["recipes"]):
        new = plan.recipes[index] if index < len(plan.recipes) else None
        if new is None or new.name != old["name"]:
            raise UserError(
                f"{plan.outdir} compares {', '.join(one['name'] for one in kept['recipes'])}; give these recipes in "
                "this order, others after them, or choose another `outdir`"
            )
        for what in ("flags", "runs"):
            if list(getattr(new, what)) != old[what]:
                was = " ".join(old[what])
                raise UserError(
                    f"recipe {new.name} was {was!r} in {plan.outdir}; give it as it was, or choose another `outdir`"
                )
    for name, value in settings(plan).items():
        if value != kept["settings"].get(name):
            raise UserError(
                f"{plan.outdir} was made with {name}={kept['settings'].get(name)!r}, not {value!r}; give it as it was, "
                "or choose another `outdir`"
            )
