"""The best sampling options of a snapshot for a metric, found with few samples: `evaluate.py sweep`."""

import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from elucid.api.evaluator import Evaluator, described
from elucid.api.sources import own_places
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable, sha256
from elucid.evaluation.history import append_record, better, metric_of
from elucid.evaluation.results import Curve, Result, Series, Table
from elucid.evaluation.sweep import Axis, Range, Search, Setting, round_sizes, search
from elucid.metrics.measures.collect import Collected, collect, on_main
from elucid.metrics.measures.evaluate import Metric, require_counts
from elucid.torch_utils import distributed
from elucid.training.config.train_options import as_assignments
from elucid.training.preconds.base import Preconditioned
from elucid.training.sampling.choices import chosen_options
from elucid.training.sampling.options import SampleOptions
from elucid.training.sampling.output.folder import digest
from elucid.training.sampling.pipeline import SamplingPipeline, make_pipeline, require_parts
from elucid.training.snapshots.reconstruct import Target, reconstruct
from elucid.training.snapshots.snapshot import chosen, load_snapshot, located
from elucid.training.snapshots.trust import import_plugins

LOW, HIGH = "guidance_low", "guidance_high"
"""Axes that are the ends of `guidance_interval`."""

FLAGS = {"guidance": "cfg", "classes": "class"}
"""Flags of generate.py that are not called like the options."""

Metrics = tuple[Metric, ...]


def sweep(
    network: str | os.PathLike,
    ref: str | os.PathLike | Sequence[str | os.PathLike] | None,
    axes: Mapping[str, Range | Sequence[Any]],
    *,
    options: SampleOptions | None = None,
    metrics: str | Sequence[str] = ("fid",),
    detector: str | Sequence[str] | None = None,
    detector_weights: str | os.PathLike | None = None,
    num: int = 1000,
    rounds: int = 4,
    dest: str | os.PathLike | None = None,
    batch: int = 64,
    device: str | None = None,
) -> Result:
    """Find the values of sampling options with the best first metric of `num` samples, and draw the metrics over them.

    `axes` maps fields of `SampleOptions` (also `guidance_low` and `guidance_high`, the ends of `guidance_interval`, and
    `ema`) to a list of values or a `Range`; `options` are those that stay. The other arguments are as for `score`. All
    settings get the same seeds 0, 1, ...; see `elucid.evaluation.sweep.search` for the rule. With `dest`, a JSON file,
    finished scores are kept beside it, and a sweep that was interrupted goes on there. Raises UserError.
    """
    place = distributed.choose_device(device)
    distributed.init(place)
    if not axes:
        raise UserError("nothing to sweep: give at least one option several values, e.g. guidance 1:4 or steps 8,12,18")
    lines = [Axis.of(name, values) for name, values in axes.items()]
    if dest is not None and distributed.is_main():
        require_writable(dest)
    evaluator = Evaluator(ref, metrics, detector, detector_weights, batch=batch, device=place)
    sizes = round_sizes(num, rounds)
    for one in evaluator.detectors:
        require_counts(evaluator.metrics, sizes[0], "generated", one.dim)
    scorer = Scorer(os.fspath(network), options or SampleOptions(), lines, evaluator, num, batch, place)
    scorer.check()
    scorer.ledger = Ledger(dest, digest(scorer.about)) if dest is not None else Ledger(None, "")
    found = search(lines, num, rounds, scorer.score, scorer.valid)
    result = scorer.result(found)
    if dest is not None and distributed.is_main():
        result.save(dest)
    return result


class Ledger:
    """Scores by setting and number of images, kept in a file of JSON lines beside `dest` so that work can go on.

    Raises UserError if the file is of another sweep. Only the main process writes; all read.
    """

    def __init__(self, dest: str | os.PathLike | None, made_by: str):
        self.path = None if dest is None else Path(dest).with_suffix(".jsonl")
        self.made_by, self.known = made_by, dict[tuple[Setting, int], Metrics]()
        if self.path is not None:
            entries = on_main(self._read)
            self.known = {(tuple(setting), num): metrics for setting, num, metrics in entries}

    def _read(self) -> list[tuple[list, int, Metrics]]:
        assert self.path is not None
        entries = []
        for line in self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else ():
            try:
                values = json.loads(line)
                entry = (values["setting"], values["num"], tuple(metric_of(one) for one in values["metrics"]))
                same = values["made_by"] == self.made_by
            except (ValueError, KeyError, TypeError):
                continue  # left incomplete by a kill
            if not same:
                raise UserError(
                    f"{self.path} holds scores of another sweep (other model, reference, metrics or options); remove "
                    "it, or choose another `dest`"
                )
            entries.append(entry)
        return entries

    def add(self, setting: Setting, num: int, metrics: Metrics) -> None:
        self.known[setting, num] = metrics
        if self.path is not None and distributed.is_main():
            values = [metric.as_dict() for metric in metrics]
            line = {"setting": setting, "num": num, "metrics": values, "made_by": self.made_by}
            append_record(self.path, json.dumps(line))


class Scorer:
    """Samples settings of a snapshot and scores them; samples that a setting already has are not drawn again."""

    ledger: Ledger

    def __init__(self, network: str, options: SampleOptions, axes: list[Axis], evaluator: Evaluator, num, batch, place):
        self.network, self.options, self.axes, self.evaluator = network, options, axes, evaluator
        self.num, self.batch, self.device = num, batch, place
        plugins = options.plugins or ()
        import_plugins(filter(None, plugins.split(",")) if isinstance(plugins, str) else plugins)
        require_parts(options)
        self._require_axes()
        self.snapshot = load_snapshot(network, place, adm=chosen_options(options)["network"])
        self.lengths: dict[float, Preconditioned] = {}
        self.collected: dict[Setting, list[Collected]] = {}
        reference = evaluator.references[0]
        self.about = {
            "network_sha256": sha256(located(network)),
            "options": {name: value for name, value in vars(options).items() if value is not None},
            "metrics": list(evaluator.metrics),
            "detectors": [described(one) for one in evaluator.detectors],
            "ref": None if reference is None else reference.provenance.data_sha256 or reference.path,
            "axes": [axis.name for axis in axes],
        }

    def _require_axes(self) -> None:
        known = {field.name for field in fields(SampleOptions)} | {LOW, HIGH}
        names = [axis.name for axis in self.axes]
        for name in names:
            if name not in known:
                raise UserError(f"`axes`: SampleOptions has no {name!r}")
            if getattr(self.options, name, None) is not None:
                raise UserError(f"`{name}` is an axis of the sweep and an option that stays; give one of them")
        if len({LOW, HIGH} & {*names}) == 1 and self.options.guidance_interval is None:
            raise UserError("`guidance_interval` needs both ends, e.g. 0.2,1:5")

    def valid(self, setting: Setting) -> bool:
        """Return whether the interval of guidance is one."""
        interval = self.options_of(setting).guidance_interval
        return interval is None or interval[0] < interval[1]

    def options_of(self, setting: Setting) -> SampleOptions:
        """Return the options of a setting."""
        values = dict(zip((axis.name for axis in self.axes), setting, strict=True))
        if {LOW, HIGH} & values.keys():
            low, high = self.options.guidance_interval or (None, None)
            values["guidance_interval"] = [values.pop(LOW, low), values.pop(HIGH, high)]
            values["guidance_interval_t"] = None
        return replace(self.options, **values)

    def check(self) -> None:
        """Raise UserError if the first or last value of an axis is one that the model cannot be sampled with."""
        for end in (0, -1):
            setting = tuple(axis.values[end] for axis in self.axes)
            if self.valid(setting):
                self.pipeline(setting)

    def pipeline(self, setting: Setting) -> SamplingPipeline:
        options = self.options_of(setting)
        emas = self.snapshot.emas
        wanted = emas if options.ema is None else {options.ema: chosen(emas, options.ema)}
        if options.ema_std is not None:
            wanted = self._of_length(options.ema_std, options.ema)
        return make_pipeline(replace(self.snapshot, emas=wanted), options, self.device)

    def _of_length(self, std: float, ema: str | None) -> dict[str, Preconditioned]:
        """Return the average of a length; those of the axis are all reconstructed at once."""
        if ema is not None:
            raise UserError(f"`ema`={ema} and `ema_std`={std:g} exclude each other; give one of them")
        if std not in self.lengths:
            first: list[float] = [value for axis in self.axes if axis.name == "ema_std" for value in axis.values]
            wanted = [std] if self.lengths else list({*first, std})
            found = reconstruct(self.network, [Target(one) for one in wanted], device=self.device).snapshot
            self.lengths |= dict(zip(wanted, found.emas.values(), strict=True))
        return {Target(std).name: self.lengths[std]}

    def score(self, setting: Setting, num: int) -> float:
        """Return the first metric of the first `num` seeds, its sign such that lower is better."""
        if (setting, num) not in self.ledger.known:
            distributed.print0(f"{self.named(setting)}: {num} images", file=sys.stderr)
            self.ledger.add(setting, num, self._computed(setting, num))
        first = self.ledger.known[setting, num][0]
        return -first.value if better(first.metric, 1, 0) else first.value

    def _computed(self, setting: Setting, num: int) -> Metrics:
        evaluator, before = self.evaluator, self.collected.get(setting)
        start = before[0].num if before else 0
        batches, order = self._samples(setting, start, num)
        wanted = [evaluator.wanted] * len(evaluator.detectors)
        found = collect(evaluator.detectors, wanted, batches, order, num - start)
        self.collected[setting] = [joined(*pair) for pair in zip(before, found, strict=True)] if before else found
        return tuple(on_main(lambda: evaluator.metrics_of(self.collected[setting], num)))

    def _samples(self, setting: Setting, start: int, stop: int):
        """Return batches of this process's share of the seeds from `start` to `stop`, and their places."""
        pipeline, count = self.pipeline(setting), stop - start
        classes = pipeline.classes_of(range(self.num))  # of all seeds, as a policy depends on the place in the list
        share = min(self.batch, -(-count // distributed.world_size()))
        places = own_places(count, share)
        own = [classes[start + place] for place in places] if isinstance(classes, list) else None
        samples = pipeline.generate([start + place for place in places], self.batch, own)
        return (part.images for part in samples), places

    def named(self, setting: Setting) -> str:
        pairs = zip((axis.name for axis in self.axes), setting, strict=True)
        return " ".join(f"{FLAGS.get(name, name)}={value}" for name, value in pairs)

    def result(self, found: Search) -> Result:
        """Return the table of all settings, curves over the first axis, and the best setting as a command."""
        best = self.ledger.known[found.best.setting, found.best.num]
        largest: dict[Setting, int] = {}
        for trial in found.trials:
            largest[trial.setting] = trial.num
        rows: list[tuple[Any, ...]] = []
        for setting, num in sorted(largest.items(), key=lambda item: tuple(map(_sortable, item[0]))):
            metrics = self.ledger.known[setting, num]
            numbers = [(metric.value, *(metric.interval or (None, None))) for metric in metrics]
            rows.append((*setting, num, *(number for triple in numbers for number in triple)))
        names = tuple(f"{metric.metric}_{metric.detector}" for metric in best)
        columns = tuple(column for name in names for column in (name, "low", "high"))
        axes = tuple(FLAGS.get(axis.name, axis.name) for axis in self.axes)
        saved = 100 * (1 - found.samples / found.of_grid)
        lines = (
            f"{found.samples} samples, {saved:.0f} % fewer than {found.of_grid} of all {len(largest)} settings",
            f"best {self.named(found.best.setting)}: {', '.join(metric.line for metric in best)}",
            self.command(found.best.setting),
        )
        about = {**self.about, "network": self.network, "samples": found.samples, "samples_of_grid": found.of_grid}
        about["best"] = dict(zip((axis.name for axis in self.axes), found.best.setting, strict=True))
        table = Table("settings, each with the most images it got", (*axes, "images", *columns), tuple(rows))
        first = best[0]
        return Result(
            "sweep", first.name, first.value, first.interval, lines, (table,), tuple(self._curves(found)), about=about
        )

    def _curves(self, found: Search) -> list[Curve]:
        """Return a curve of each metric over the first axis; a line for each number of images and setting of others."""
        groups: dict[str, dict[float, Metrics]] = {}
        if not all(isinstance(value, int | float) for value in self.axes[0].values):
            return []
        for trial in found.trials:
            others = zip(self.axes[1:], trial.setting[1:], strict=True)
            name = " ".join([f"{trial.num} images", *(f"{FLAGS.get(a.name, a.name)}={v}" for a, v in others)])
            groups.setdefault(name, {})[trial.setting[0]] = self.ledger.known[trial.setting, trial.num]
        curves, axis = [], FLAGS.get(self.axes[0].name, self.axes[0].name)
        for index, metric in enumerate(next(iter(next(iter(groups.values())).values()))):
            series = []
            for name, by_value in groups.items():
                ordered = sorted(by_value.items())
                intervals = [metrics[index].interval for _, metrics in ordered]
                whole = tuple(one for one in intervals if one is not None)
                points = tuple((value, metrics[index].value) for value, metrics in ordered)
                series.append(Series(name, points, whole if len(whole) == len(points) else None))
            title = f"{metric.metric}_{metric.detector}"
            curves.append(Curve(title, axis, title, tuple(series)))
        return curves

    def command(self, setting: Setting) -> str:
        """Return the command line that samples with a setting."""
        options, flags = self.options_of(setting), [f"--network={self.network}", "--outdir=samples"]
        for name, value in vars(options).items():
            if value is None or (name == "set" and not value):
                continue
            if name == "set":
                flags += [f"--set={assignment}" for assignment in as_assignments(value)]
                continue
            listed = isinstance(value, list | tuple)
            text = ",".join(map(_text, value)) if listed else _text(value)
            flags.append(f"--{FLAGS.get(name, name)}={text}")
        return shlex.join(["python", "generate.py", *flags])


def joined(before: Collected, found: Collected) -> Collected:
    """Return what was collected of the first images and then of further ones."""
    for name, statistics in found.statistics.items():
        before.statistics[name].merge(statistics)
    rows = {name: torch.cat([before.rows[name], rows]) for name, rows in found.rows.items()}
    return Collected(before.num + found.num, before.statistics, rows)


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _sortable(value: Any) -> tuple[float, str]:
    return (float(value), "") if isinstance(value, int | float) else (0.0, str(value))
