"""A cell of a comparison: one training, and the scores of its sampling seeds; all is kept as soon as it is there."""

import json
import shlex
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elucid.dnnlib.files import write_output

TRAININGS, BLOCKS = 100, 20
"""Most trainings of a recipe, and most sampling seeds of a training; they keep the blocks of seeds apart."""
TUNING_SEEDS = 3_500_000_000
"""First seed of the images that guidance is tuned on, beyond all that are scored."""
GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Command:
    """A subprocess, or several under torchrun: its command line without the interpreter, and what it does in words."""

    flags: tuple[str, ...]
    what: str
    processes: int = 1

    @property
    def argv(self) -> list[str]:
        if self.processes == 1:
            return [sys.executable, "-m", "elucid", *self.flags]
        launch = ("torch.distributed.run", "--standalone", f"--nproc_per_node={self.processes}", "--module")
        return [sys.executable, "-m", *launch, "elucid", *self.flags]


@dataclass(frozen=True)
class Tuning:
    """The search for the best value of a sampling flag: golden section over `evaluations` scores of `num` images."""

    flag: str
    low: float
    high: float
    num: int
    evaluations: int = 6


@dataclass(frozen=True)
class Scoring:
    """How the images of a training are scored: flags of `fid.py calc`, images in a block, number of blocks."""

    flags: tuple[str, ...]
    num: int
    blocks: int
    lower_is_better: bool = True
    tuning: Tuning | None = None


@dataclass(frozen=True)
class Cell:
    """One training in a folder of its own. `number` counts cells, 100 for each recipe, and fixes their sampling seeds.

    `train` are the flags of train.py; without, `network` is a finished run. Its subprocesses have `processes` each.
    """

    recipe: str
    seed: int
    number: int
    folder: Path
    network: Path
    scoring: Scoring
    train: tuple[str, ...] | None = None
    processes: int = 1

    @property
    def name(self) -> str:
        return f"{self.recipe}, {f'seed {self.seed}' if self.train is not None else f'run {self.network}'}"

    @property
    def log(self) -> Path:
        """The file that holds all output of its subprocesses."""
        return self.folder / "log.txt"

    def first_seed(self, block: int) -> int:
        """Return the first sampling seed of a block; no two blocks of a comparison share one."""
        return (self.number * BLOCKS + block) * self.scoring.num

    def scores(self) -> list[dict[str, Any]]:
        """Return the records of its blocks that are there, in order."""
        found = [_read(self._file(block)) for block in range(self.scoring.blocks)]
        return [record for record in found if record is not None]

    @property
    def done(self) -> bool:
        return len(self.scores()) == self.scoring.blocks

    @property
    def trained(self) -> dict[str, Any] | None:
        """What is known of its finished training: `seconds`, `kimg`; None before."""
        return _read(self.folder / "trained.json")

    @property
    def tuned(self) -> dict[str, Any] | None:
        """The flag that was tuned, its best value and those tried, with their scores; None before."""
        return _read(self.folder / "tuned.json")

    def steps(self) -> Generator[Command, str, None]:
        """Yield what is left to do, each as a subprocess whose stdout is sent back; files keep what is done."""
        if self.train is not None and self.trained is None:
            yield Command(("train", *self.train), "training", self.processes)
            _write(self.folder / "trained.json", progress_of(self.network))
        missing = [block for block in range(self.scoring.blocks) if _read(self._file(block)) is None]
        if not missing:
            return
        tuned = yield from self._tuned()
        begun = time.monotonic()
        seeds = ",".join(_span(self.first_seed(block), self.scoring.num) for block in missing)
        blocks = (f"--blocks={len(missing)}",) if len(missing) > 1 else ()
        output = yield Command((*self._calc(seeds), *blocks, *tuned), "scoring", self.processes)
        found = json.loads(output.splitlines()[-1])
        seconds = (time.monotonic() - begun) / len(missing)
        for block, record in zip(missing, found["blocks"] if blocks else [found], strict=True):
            _write(self._file(block), {**record, "seconds": seconds, "tuned": list(tuned)})

    def _tuned(self) -> Generator[Command, str, tuple[str, ...]]:
        """Find the value of the flag to tune; return it as a flag."""
        tuning, path = self.scoring.tuning, self.folder / "tuned.json"
        if tuning is None:
            return ()
        kept = _read(path)
        if kept is None:
            trail: dict[float, float] = {}
            search = golden_section(tuning.low, tuning.high, tuning.evaluations)
            value = next(search)
            seeds = _span(TUNING_SEEDS + self.number * tuning.num, tuning.num)
            while True:
                flags = (*self._calc(seeds), f"--{tuning.flag}={value:.4g}")
                output = yield Command(flags, f"tuning {tuning.flag}", self.processes)
                score = json.loads(output.splitlines()[-1])["value"]
                trail[value] = score if self.scoring.lower_is_better else -score
                try:
                    value = search.send(trail[value])
                except StopIteration:
                    break
            kept = {"flag": tuning.flag, "value": min(trail, key=trail.__getitem__), "tried": list(trail.items())}
            _write(path, kept)
        return (f"--{tuning.flag}={kept['value']:.4g}",)

    def _calc(self, seeds: str) -> tuple[str, ...]:
        return ("fid", "calc", f"--network={self.network}", f"--seeds={seeds}", "--json", *self.scoring.flags)

    def _file(self, block: int) -> Path:
        return self.folder / f"scores-{block}.json"


def golden_section(low: float, high: float, evaluations: int) -> Generator[float, float, None]:
    """Yield points of an interval at which to evaluate a function with one minimum (Kiefer 1953); send its values."""
    inner = [high - GOLDEN * (high - low), low + GOLDEN * (high - low)]
    values = [(yield inner[0]), (yield inner[1])]
    for _ in range(evaluations - 2):
        if values[0] <= values[1]:
            high, inner[1], values[1] = inner[1], inner[0], values[0]
            inner[0] = high - GOLDEN * (high - low)
            values[0] = yield inner[0]
        else:
            low, inner[0], values[0] = inner[0], inner[1], values[1]
            inner[1] = low + GOLDEN * (high - low)
            values[1] = yield inner[1]


def progress_of(run: Path) -> dict[str, Any]:
    """Return the training time in seconds and the thousands of images of a run, None where its log does not say."""
    rows = rows_of(run)
    if not rows:
        return {"seconds": None, "kimg": None}
    return {"seconds": rows[-1]["Timing/total_sec"]["mean"], "kimg": rows[-1]["Progress/kimg"]["mean"]}


def rows_of(run: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's stats.jsonl; none if there is no such file."""
    folder = run if run.is_dir() else run.parent
    try:
        return [json.loads(line) for line in (folder / "stats.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return []


def shown(command: Command) -> str:
    """Return the command line as one would type it."""
    return "python -m elucid " + shlex.join(command.flags)


def _span(first: int, num: int) -> str:
    return f"{first}-{first + num - 1}"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _write(path: Path, values: dict[str, Any]) -> None:
    with write_output(path) as file:
        file.write(json.dumps(values, indent=1).encode() + b"\n")
