"""One comparison: what is checked before, the trainings in their order, and the verdict."""

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable
from elucid.dnnlib.progress import progress_bar
from elucid.evaluation.compare.groups import Group
from elucid.evaluation.compare.report import lower_is_better, result_of
from elucid.evaluation.compare.sentence import duration as spoken
from elucid.evaluation.compare.sequential import Design, design
from elucid.evaluation.compare.verdict import Rules, Verdict, judged, judged_by_holm, judged_in_turn
from elucid.evaluation.results import Result, load_result
from elucid.evaluation.trainings import pace
from elucid.evaluation.trainings.cells import Cell, Command, progress_of
from elucid.evaluation.trainings.jobs import Failure, run_command, run_here
from elucid.evaluation.trainings.plan import Plan, checked_options, read, record
from elucid.evaluation.trainings.slurm import executor, run_there

RESULT = "compare.json"


class Comparison:
    """A plan, the rules of its verdict, and where it runs.

    `first_look` is the number of trainings each at the first look of a sequential test; None: all `seeds` are trained.
    """

    def __init__(
        self,
        plan: Plan,
        rules: Rules,
        *,
        seeds: int,
        first_look: int | None,
        assumed_cv: float | None,
        jobs: int,
        slurm: Mapping[str, Any] | None,
        log: Callable[[str], None],
    ):
        self.plan, self.rules, self.seeds, self.cv = plan, rules, seeds, assumed_cv
        self.first_look = None if first_look is None else min(max(2, first_look), seeds)
        self.jobs, self.slurm, self.log = jobs, slurm, log
        self.notes: list[str] = []

    def prepare(
        self,
        ref: str | os.PathLike | None,
        metrics: Sequence[str],
        detector: str | None,
        weights: str | None,
        match: str,
        duration: float | None,
    ) -> None:
        """Check everything that can be checked before the first training, and decide how long all train."""
        from elucid.api.evaluations.comparing.scoring_check import (
            require_scoring,  # imported late: nothing else here needs torch
        )

        require_writable(self.plan.outdir / RESULT)
        self._require_planned()
        if self.slurm is not None:
            executor(self.plan.outdir / "slurm", self.slurm)
        of_weights = () if weights is None else (f"--detector-weights={weights}",)
        refs, flags = self._references(ref, detector, of_weights)
        scoring = replace(self.plan.scoring, flags=(*self.plan.scoring.flags, *flags, *of_weights))
        self.plan = replace(self.plan, scoring=scoring)
        options = checked_options(self.plan)
        require_scoring(refs, metrics, detector, weights, scoring.num)
        for path, made in refs.items():
            if made is not None and not Path(path).exists():
                run_command(made)
        self.plan = replace(self.plan, durations=tuple(self._durations(options, match, duration)))

    def _require_planned(self) -> None:
        """Note a number of looks that was changed after results were seen: the error rates are those of one plan."""
        if self.first_look is None or not (self.plan.outdir / RESULT).exists():
            return
        before = load_result(self.plan.outdir / RESULT).about
        if before.get("first_look") is not None and before["seeds"] != self.seeds:
            self.notes.append(
                f"at most {before['seeds']} trainings each were planned before, now {self.seeds}: chosen after a "
                "result, this makes false alarms somewhat likelier"
            )

    def _references(
        self, ref: str | os.PathLike | None, detector: str | None, weights: Sequence[str]
    ) -> tuple[dict[str, Command | None], tuple[str, ...]]:
        """Return the reference files, each with the command that makes it from images, and the flags that name them."""
        if ref is None:
            raise UserError("`ref` is missing; give a reference made by fid.py ref, or real images")
        given = os.fspath(ref)
        if not os.path.exists(given) and "://" not in given:
            raise UserError(f"reference not found: {given}; check the path")
        if given.endswith(".npz") or "://" in given:
            return {given: None}, (f"--ref={given}", *(() if detector is None else (f"--detector={detector}",)))
        if detector is None:
            raise UserError(f"{given} holds images, not a reference; name the `detector` to compare them in")
        made: dict[str, Command | None] = {}
        for name in detector.split(","):
            path = str(self.plan.outdir / f"reference-{name.replace(os.sep, '-').replace(':', '-')}.npz")
            flags = ("fid", "ref", f"--data={given}", f"--dest={path}", f"--detector={name}", "--features", *weights)
            made[path] = Command(flags, "reference")
        return made, (*(f"--ref={path}" for path in made), f"--detector={detector}")

    def _durations(
        self, options: Sequence[dict[str, Any] | None], match: str, duration: float | None
    ) -> list[float | None]:
        """Return how long each recipe trains, in millions of images; as it was decided before, if it was."""
        kept = read(self.plan.outdir)
        decided = kept["durations"] if kept else None
        if decided and (decided["match"], decided["duration"]) != (match, duration):
            raise UserError(
                f"{self.plan.outdir} was made with match={decided['match']}, duration={decided['duration']}; give them "
                "as they were, or choose another `outdir`"
            )
        if decided and len(decided["mimg"]) == len(options):
            self.notes += decided["notes"]
            return decided["mimg"]
        own = [None if one is None else float(one["loop"]["duration_mimg"]) for one in options]
        record(self.plan, options, None)
        first = duration or next((one for one in own if one is not None), None)
        lengths, notes = own, list[str]()
        if first is not None and match == "time":
            lengths, notes = pace.equal_time(self.plan, options, first, lambda cells: self._train(cells, "probes"))
        elif first is not None:
            lengths = [None if one is None else first for one in own]
            changed = "" if len({*own, first} - {None}) == 1 else ", whatever their own --duration is"
            notes = [f"matched by images: {1000 * first:g} kimg each{changed}"]
        record(self.plan, options, {"match": match, "duration": duration, "mimg": lengths, "notes": notes})
        self.notes += notes
        return lengths

    def run(self) -> Result:
        """Train and score until the answer is settled, and return the result, which is also saved."""
        verdicts, groups = self._all_at_once() if self.first_look is None else self._in_turn(self.first_look)
        seconds, costs = self._costs()
        about = {**self._about(), "seconds": costs}
        result = result_of(verdicts, groups, [*self.notes, *self._time_notes(costs)], about, seconds, self.jobs)
        result.save(self.plan.outdir / RESULT)
        return result

    def _all_at_once(self) -> tuple[dict[str, list[Verdict]], dict[str, list[Group]]]:
        """Train all, then judge each metric (Holm's procedure if there are more than two recipes)."""
        everyone = range(len(self.plan.recipes))
        self._train(self.plan.cells(everyone, self.seeds), "trainings")
        groups = self._groups(everyone, self.seeds)
        verdicts = {
            name: judged_by_holm(name, of, self.rules, lower_is_better(kind)) for (name, kind), of in groups.items()
        }
        return verdicts, {name: of for (name, _), of in groups.items()}

    def _in_turn(self, first_look: int) -> tuple[dict[str, list[Verdict]], dict[str, list[Group]]]:
        """Train the recipes in step, look after each, and drop those whose comparison with the first is settled.

        With more than two recipes each comparison gets its part of the false alarms (Bonferroni).
        """
        others = list(range(1, len(self.plan.recipes)))
        rules = replace(self.rules, alpha=self.rules.alpha / len(others))
        designs = {other: self._design(other, first_look, rules) for other in others}
        settled: dict[int, Verdict] = {}
        for seeds in range(first_look, self.seeds + 1):
            left = [other for other in others if other not in settled]
            self._train(self.plan.cells([0, *left], seeds), f"{seeds} trainings each")
            groups = self._groups([0, *left], seeds)
            (metric, kind), of = next(iter(groups.items()))
            for other, group in zip(left, of[1:], strict=True):
                found = judged_in_turn(metric, of[0], group, rules, designs[other], lower_is_better(kind))
                if found is not None:
                    settled[other] = found
                    self.log(f"{group.name}: {found.outcome} after {seeds} trainings each")
            if len(settled) == len(others):
                break
        return self._of_all_metrics(settled, seeds, rules)

    def _design(self, other: int, first_look: int, rules: Rules) -> Design:
        sizes = [(self.plan.size(0, k), self.plan.size(other, k)) for k in range(first_look, self.seeds + 1)]
        names = [self.plan.recipes[index].name for index in (0, other)]
        for name, size in zip(names, sizes[0], strict=True):
            if size < 2:
                raise UserError(
                    f"{name} has one run, which does not tell its spread between trainings; give at least 2"
                )
        made = design(tuple(dict.fromkeys(sizes)), rules.gap, rules.alpha, rules.beta)
        used = [first_look - 1 + looks for looks in made.looks_used]
        line = (
            f"sequential: looks from {first_look} to {self.seeds} trainings each; a gap of {rules.gap:g} standard "
            f"deviations is found with probability {made.power:.2f}; {used[0]:.1f} trainings each on average without "
            f"a gap, {used[1]:.1f} with it"
        )
        if line not in self.notes:
            self.notes.append(line)
            self.log(line)
        return made

    def _of_all_metrics(
        self, settled: Mapping[int, Verdict], seeds: int, rules: Rules
    ) -> tuple[dict[str, list[Verdict]], dict[str, list[Group]]]:
        """Judge the other metrics with the trainings that the first one called for."""
        sizes = [max(verdict.first.size for verdict in settled.values())]
        sizes += [settled[other].second.size for other in sorted(settled)]
        groups = self._groups(range(len(sizes)), seeds, sizes)
        verdicts: dict[str, list[Verdict]] = {}
        for position, ((name, kind), of) in enumerate(groups.items()):
            pairs = [(of[0].first(settled[other].first.size), of[other]) for other in sorted(settled)]
            verdicts[name] = (
                [settled[other] for other in sorted(settled)]
                if position == 0
                else [judged(name, *pair, rules, lower_is_better(kind)) for pair in pairs]
            )
        if len(groups) > 1:
            first = next(iter(groups))[0]
            self.notes.append(f"{first} decides; the other metrics are judged with the trainings that it called for")
        return verdicts, {name: of for (name, _), of in groups.items()}

    def _train(self, cells: Sequence[Cell], what: str) -> None:
        """Run what is missing of the cells. Raises UserError if one fails, once all others are done."""
        missing = [cell for cell in cells if not (cell.done and (cell.train is None or cell.trained))]
        if not missing:
            return
        failures: list[Failure] = []
        with progress_bar(total=len(cells), initial=len(cells) - len(missing), unit="run", desc=what) as bar:

            def done(cell: Cell, failure: Failure | None) -> None:
                bar.update()
                if failure is not None:
                    failures.append(failure)
                self.log(str(failure) if failure is not None else said(cell))

            if self.slurm is None:
                run_here(missing, self.jobs, done)
            else:
                run_there(missing, self.plan.outdir / "slurm", self.slurm, done)
        if failures:
            raise UserError(
                f"{len(failures)} of {len(missing)} failed, first {failures[0]}; what is finished is kept: mend it and "
                "give the same command again"
            )

    def _groups(
        self, recipes: Sequence[int], seeds: int, sizes: Sequence[int] | None = None
    ) -> dict[tuple[str, str], list[Group]]:
        """Return the scores of trained recipes, for each metric: its name and its kind."""
        found: dict[tuple[str, str], list[Group]] = {}
        for place, recipe in enumerate(recipes):
            size = self.plan.size(recipe, seeds) if sizes is None else sizes[place]
            records = [self.plan.cell(recipe, index).scores() for index in range(size)]
            for position, metric in enumerate(records[0][0]["metrics"]):
                scores = tuple(tuple(block["metrics"][position]["value"] for block in one) for one in records)
                group = Group(self.plan.recipes[recipe].name, scores, self.cv)
                found.setdefault((metric["name"], metric["metric"]), []).append(group)
        return found

    def _costs(self) -> tuple[float | None, dict[str, float | None]]:
        """Return the seconds of one more training of the first two recipes, scores included, and those of each."""
        costs: dict[str, float | None] = {}
        total: float | None = 0.0
        for recipe, one in enumerate(self.plan.recipes):
            cells = [self.plan.cell(recipe, index) for index in range(self.plan.size(recipe, self.seeds))]
            times = [training_of(cell)["seconds"] for cell in cells if cell.done]
            known = [seconds for seconds in times if seconds is not None]
            costs[one.name] = statistics.fmean(known) if known else None
            scoring = [sum(block["seconds"] for block in cell.scores()) for cell in cells if cell.done]
            if recipe < 2:
                total = (
                    None if total is None or not known else total + statistics.fmean(known) + statistics.fmean(scoring)
                )
        return total, costs

    def _time_notes(self, costs: Mapping[str, float | None]) -> list[str]:
        """Say how long trainings took and, of finished runs, on how many images."""
        notes = [f"{name}: a training took {spoken(value)}" for name, value in costs.items() if value is not None]
        for one in self.plan.recipes:
            if one.runs:
                seen = sorted({progress_of(Path(run))["kimg"] or 0.0 for run in one.runs})
                notes.append(f"{one.name}: finished runs on {' and '.join(f'{kimg:g}' for kimg in seen)} kimg")
        known = [value for value in costs.values() if value]
        if any("matched by time" in note for note in self.notes) and max(known) > 1.1 * min(known):
            notes.append(
                "the training times differ by more than 10 %: the machine was not as fast as when it was measured"
            )
        return notes

    def _about(self) -> dict[str, Any]:
        plan, rules = self.plan, self.rules
        recipes = {one.name: list(one.flags or one.runs) for one in plan.recipes}
        scoring = {"flags": list(plan.scoring.flags), "num": plan.scoring.num, "sampling_seeds": plan.scoring.blocks}
        tuned = {"tuned": [cell.tuned for cell in self._cells_done() if cell.tuned]} if plan.scoring.tuning else {}
        how = {"alpha": rules.alpha, "beta": rules.beta, "detect": rules.gap, "margin": rules.margin}
        test = {"seeds": self.seeds, "first_look": self.first_look, "assumed_cv": self.cv}
        return {"recipes": recipes, "data": plan.data, "scoring": scoring, **how, **test, **tuned}

    def _cells_done(self) -> list[Cell]:
        return [cell for cell in self.plan.cells(range(len(self.plan.recipes)), self.seeds) if cell.done]


def said(cell: Cell) -> str:
    """Return a line on a cell that is done."""
    seconds = training_of(cell)["seconds"]
    took = "" if seconds is None or cell.train is None else f": trained in {spoken(seconds)}"
    blocks = cell.scores()
    scores = ", ".join(f"{block['value']:.5g}" for block in blocks)
    return f"{cell.name}{took}" + (f"; {blocks[0]['name']} {scores}" if blocks else "")


def training_of(cell: Cell) -> dict[str, Any]:
    """Return what is known of the training of a cell."""
    return cell.trained or progress_of(cell.network)
