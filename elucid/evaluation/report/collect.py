"""Reads a run folder for its report; what is damaged is left out, with a note."""

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading.json_text import read_json
from elucid.dnnlib.reading.regular import read_regular
from elucid.evaluation.results import Result, load_result, results_of
from elucid.metrics.measures.names import HIGHER_IS_BETTER

_DAMAGED = (OSError, ValueError, OverflowError, RecursionError)

MORE_IS_BETTER = HIGHER_IS_BETTER | {"accuracy", "auroc", "top", "agreement"}
"""First words of scores of which more is better; of all others less is."""


@dataclass
class Statistic:
    """The values of a statistic by images seen, in thousands; NaN where a value is not finite."""

    kimg: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    @property
    def last(self) -> float:
        """The last finite value, or NaN."""
        return next((value for value in reversed(self.values) if math.isfinite(value)), math.nan)

    def points(self, every: bool = True) -> tuple[tuple[float, float], ...]:
        """Return (kimg, value) of all ticks, or not of `every` one but where the value is finite."""
        pairs = zip(self.kimg, self.values, strict=True)
        return tuple(pair for pair in pairs if every or math.isfinite(pair[1]))


@dataclass
class RunRecord:
    """What a run folder holds: resolved options, one entry per start, statistics, sample grids, saved results."""

    folder: Path
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    starts: list[dict[str, Any]] = field(default_factory=list)
    stats: dict[str, Statistic] = field(default_factory=dict)
    grids: list[tuple[float, Path]] = field(default_factory=list)
    results: list[tuple[Path, Result]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def option(self, path: str) -> Any:
        """Return an option by its path, or None."""
        node: Any = self.options
        for part in path.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node

    @property
    def data(self) -> Path | None:
        """The run's data set, relative to where the run was started if it is not found here; None if unknown."""
        path = self.option("dataset.path")
        if not isinstance(path, str) or not path:
            return None
        folder = self.starts[-1].get("folder") if self.starts else None
        there = Path(folder, path) if isinstance(folder, str) else Path(path)
        return there if not Path(path).exists() and there.exists() else Path(path)


def read_runs(folders: Sequence[str | os.PathLike], names: Sequence[str] | None = None) -> list[RunRecord]:
    """Read run folders; `names` replace those that tell them apart. Raises UserError for a folder that holds no run."""
    if not folders:
        raise UserError("give at least one run folder")
    if names is not None and len(names) != len(folders):
        raise UserError(f"`names` has {len(names)} names for {len(folders)} runs; give one for each")
    chosen = list(names) if names is not None else short_names([Path(folder) for folder in folders])
    return [read_run(folder, name) for folder, name in zip(folders, chosen, strict=True)]


def read_run(folder: str | os.PathLike, name: str) -> RunRecord:
    """Read one run folder. Raises UserError if it holds no run."""
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder of a run")
    run = RunRecord(folder, name)
    run.options = _json(run, "training_options.json", dict)
    run.starts = [one for one in _json(run, "run.json", list) if isinstance(one, dict)]
    run.stats = _statistics(run)
    run.grids = _grids(folder)
    for path in results_of(folder):
        try:
            run.results.append((path, load_result(path)))
        except UserError as error:
            run.notes.append(f"{path.name} is left out: {error}")
    if not (run.options or run.stats or run.grids or run.results):
        inside = sorted(path.parent.name for path in folder.glob("*/training_options.json"))
        mend = f"; there are runs in it, e.g. {folder / inside[-1]}" if inside else "; give the folder of a run"
        raise UserError(f"{folder} holds no run{mend}")
    return run


def short_names(folders: Sequence[Path]) -> list[str]:
    """Return what tells the names of run folders apart, e.g. `00000-edm` and `00001-cdm`; a single one whole."""
    paths = [folder.resolve() for folder in folders]
    names = [path.name for path in paths]
    depth = 1
    while len(set(names)) < len(names) and depth < max(len(path.parts) for path in paths):
        depth += 1
        names = ["/".join(path.parts[-depth:]) for path in paths]
    words = [name.split("-") for name in names]
    if len(names) == 1 or len({len(parts) for parts in words}) > 1:
        return names
    differ = [place for place, column in enumerate(zip(*words, strict=True)) if len(set(column)) > 1]
    short = ["-".join(dict.fromkeys(parts[place] for place in differ)) for parts in words]
    return short if len(set(short)) == len(short) else names


def best(name: str, statistic: Statistic) -> tuple[float, float] | None:
    """Return (kimg, value) of the best value of a score, e.g. `Eval/fid5k_efflite0`; None without finite values."""
    word = re.split(r"[\d_]", name.rpartition("/")[2].lower())[0]
    pairs = statistic.points(every=False)
    if not pairs:
        return None
    return (max if word in MORE_IS_BETTER else min)(pairs, key=lambda pair: pair[1])


def read_file(path: Path) -> bytes:
    """Read a regular file. Raises UserError if it cannot be read, or is too large."""
    try:
        return read_regular(str(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error


def _json(run: RunRecord, name: str, kind: type) -> Any:
    path = run.folder / name
    if not path.exists():
        run.notes.append(f"there is no {name}")
        return kind()
    try:
        content = read_json(path)
        if isinstance(content, kind):
            return content
        run.notes.append(f"{name} is left out: it is no {'list' if kind is list else 'object'}")
    except (UserError, *_DAMAGED) as error:
        run.notes.append(f"{name} is left out: {error}")
    return kind()


def _statistics(run: RunRecord) -> dict[str, Statistic]:
    found: dict[str, Statistic] = {}
    damaged = 0
    try:
        lines = read_file(run.folder / "stats.jsonl").splitlines()
    except UserError as error:
        run.notes.append(str(error))
        return found
    for line in lines:
        try:
            values = json.loads(line)
            kimg = float(values["Progress/kimg"]["mean"])
            if not math.isfinite(kimg):
                raise ValueError
        except (TypeError, KeyError, *_DAMAGED):
            damaged += 1
            continue
        for name, value in values.items():
            if isinstance(value, dict) and "mean" in value:
                one = found.setdefault(name, Statistic())
                one.kimg.append(kimg)
                one.values.append(_float(value["mean"]))
    if damaged:
        run.notes.append(f"stats.jsonl: {damaged} damaged lines are left out")
    return found


def _float(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else math.nan


def _grids(folder: Path) -> list[tuple[float, Path]]:
    """Return the sample grids with the images seen, in thousands, in order."""
    found = [
        (re.fullmatch(r"samples-(\d{1,12}(?:\.\d{1,6})?)\.png", path.name), path)
        for path in folder.glob("samples-*.png")
    ]
    return sorted((float(match[1]), path) for match, path in found if match)
