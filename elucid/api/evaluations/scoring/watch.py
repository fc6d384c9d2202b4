"""Scores the snapshots of a running or finished run as they appear: `evaluate.py watch RUN`."""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from elucid.api.evaluations.scoring.online import usable_detector
from elucid.api.evaluations.scoring.training_reference import open_images, training_evaluator
from elucid.api.evaluator import Evaluator, described
from elucid.api.sources import of_pipeline
from elucid.dnnlib.config import bind
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable, sha256
from elucid.dnnlib.reading.json_text import read_json
from elucid.evaluation.history import History, Record, as_result, first_to_reach, reached
from elucid.evaluation.results import FOLDER, Result
from elucid.metrics.measures.evaluate import require_counts
from elucid.metrics.measures.names import metric_names
from elucid.torch_utils import distributed
from elucid.training.config.settings import DataOptions
from elucid.training.hooks.provenance import NAME as RUN_JSON
from elucid.training.sampling.choices import chosen_options
from elucid.training.sampling.options import SampleOptions
from elucid.training.sampling.output.folder import digest
from elucid.training.sampling.pipeline import make_pipeline, require_parts
from elucid.training.snapshots.snapshot import Snapshot, load_snapshot, snapshots_in
from elucid.training.snapshots.trust import import_plugins

LAST_LOOK = 5.0
"""Seconds until the last look after a run has ended."""

Known = tuple[int, int, int]
"""Inode, size and time of change of a file, which differ when it was written anew."""


def watch(
    run: str | os.PathLike,
    ref: str | os.PathLike | None = None,
    *,
    options: SampleOptions | None = None,
    metrics: str | Sequence[str] = ("kid",),
    detector: str | None = None,
    detector_weights: str | os.PathLike | None = None,
    num: int = 1000,
    once: bool = False,
    every: float = 60.0,
    target: float | None = None,
    dest: str | os.PathLike | None = None,
    batch: int = 64,
    device: str | None = None,
) -> Result:
    """Score `num` samples of each snapshot of a run folder, oldest first, and look for new ones every so many seconds.

    Returns when the run has ended, or with `once` when all that are there are scored; snapshots scored in the same way
    before are not scored again. The scores are kept in `dest`, by default RUN/evaluations/watch.json, and line by line
    beside it, after each snapshot. `ref` is by default the run's training data; with `target`, the images needed to
    reach that value of the first metric are reported. Under torchrun all processes must call it. Raises UserError.
    """
    place = distributed.choose_device(device)
    distributed.init(place)
    folder, options = Path(run), options or SampleOptions()
    trained = run_options(folder)
    dest = folder / FOLDER / "watch.json" if dest is None else Path(dest)
    if distributed.is_main():
        require_writable(dest)
    plugins = options.plugins or ()
    import_plugins(filter(None, plugins.split(",")) if isinstance(plugins, str) else plugins)
    require_parts(options)
    names = metric_names(metrics)
    how: dict[str, Any] = {"batch": batch, "device": place}
    if ref is None:
        network = usable_detector(detector, detector_weights, place)
        data = DataOptions(**bind(DataOptions, trained["dataset"], "dataset"))
        detector = detector or network.name
        evaluator = training_evaluator(folder, data, names, detector, detector_weights, None, network=network, **how)
    else:
        evaluator = Evaluator(ref, names, detector, detector_weights, **how)
    require_counts(names, num, "generated", evaluator.detectors[0].dim)
    watcher = Watcher(folder, dest, evaluator, options, num, batch, place)
    follow(watcher, trained, once, every)
    result = watcher.result(target, None if target is None else images_of(trained))
    if distributed.is_main():
        result.save(dest)
    return result


def follow(watcher: "Watcher", trained: dict[str, Any], once: bool, every: float) -> None:
    """Score all snapshots, and new ones as they appear until the run has ended, or only those there are with `once`."""
    total, idle = round(trained["loop"]["duration_mimg"] * 1e6), 0
    while True:
        ended = distributed.broadcast_object(has_ended(watcher.folder))
        idle = 0 if watcher.score_new() else idle + 1
        # A run that was stopped writes its last snapshot after it says that it has ended.
        if once or watcher.newest >= total or (ended and idle > 1):
            return
        if idle == 1 and not ended:
            note = f"waiting for the next snapshot of {watcher.folder}, looking every {every:g} s; Ctrl-C ends it"
            distributed.print0(note, file=sys.stderr)
        time.sleep(min(every, LAST_LOOK) if ended else every)
        distributed.barrier()


def run_options(folder: Path) -> dict[str, Any]:
    """Return the options of a run. Raises UserError if the folder is not that of a run."""
    try:
        options = read_json(folder / "training_options.json")
        return {"dataset": {**options["dataset"]}, "loop": {"duration_mimg": float(options["loop"]["duration_mimg"])}}
    except (UserError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is not the folder of a run: it has no training_options.json") from error


def has_ended(folder: Path) -> bool:
    """Return whether the last process that trained in a run folder has ended, as far as it could say so itself."""
    try:
        return "ended" in read_json(folder / RUN_JSON)[-1]
    except (UserError, LookupError, TypeError):
        return False


class Watcher:
    """Scores the snapshots of a folder that are not yet scored."""

    def __init__(self, folder: Path, dest: Path, evaluator: Evaluator, options: SampleOptions, num, batch, device):
        self.folder, self.dest, self.evaluator, self.options = folder, dest, evaluator, options
        self.num, self.batch, self.device = num, batch, device
        reference = evaluator.references[0]
        self.about = {
            "metrics": list(evaluator.metrics),
            "num": num,
            "detectors": [described(one) for one in evaluator.detectors],
            "ref": None if reference is None else reference.provenance.data_sha256 or reference.path,
            "options": {name: value for name, value in vars(options).items() if value is not None},
        }
        self.history = History(dest.with_suffix(".jsonl"), digest(self.about))
        self.hashes: dict[str, tuple[Known, str]] = {}
        self.unreadable: dict[str, str] = {}

    def score_new(self) -> int:
        """Score what is new, oldest first; returns how many there were. All processes must call it together.

        What cannot be read may be half-written: it is tried again when the file has changed.
        """
        scored = 0
        while True:
            found = distributed.broadcast_object(self._next() if distributed.is_main() else None)
            if found is None:
                return scored
            name, sha = found
            snapshot = self._load(name)
            if snapshot is not None:
                self._score(name, sha, snapshot)
                scored += 1

    def _next(self) -> tuple[str, str] | None:
        """Return name and hash of the oldest snapshot that is not scored and was not found unreadable as it is now."""
        done = {record.about["sha256"] for record in self.history.records}
        for path in snapshots_in(self.folder):
            sha = self._hash(path)
            if sha is not None and sha not in done and path.name not in self.unreadable:
                return path.name, sha
        return None

    def _hash(self, path: Path) -> str | None:
        """Return the hash of a file, computed once for each content; None if it has vanished."""
        try:
            status = path.stat()
            known = (status.st_ino, status.st_size, status.st_mtime_ns)
            if self.hashes.get(path.name, (None,))[0] != known:
                self.hashes[path.name] = (known, sha256(path))
                self.unreadable.pop(path.name, None)
            return self.hashes[path.name][1]
        except OSError:
            return None

    def _load(self, name: str) -> Snapshot | None:
        """Return a snapshot, or None on all processes if one of them cannot read it."""
        snapshot, reason = None, None
        try:
            adm = chosen_options(self.options)["network"]
            snapshot = load_snapshot(self.folder / name, self.device, self.options.ema, adm)
        except (UserError, OSError) as error:
            reason = str(error)
        if distributed.any_rank(snapshot is None):
            self.unreadable[name] = reason or "another process could not read it"
            distributed.print0(f"note: {name} is left out for now: {reason}", file=sys.stderr)
            return None
        return snapshot

    def _score(self, name: str, sha: str, snapshot: Snapshot) -> None:
        started = time.monotonic()
        pipeline = make_pipeline(snapshot, self.options, self.device)
        pipeline.description["network"] = sha
        about = {"snapshot": name, "sha256": sha}
        try:
            source = of_pipeline(pipeline, str(self.folder / name), range(self.num), self.batch)
            metrics = self.evaluator(source).metrics
        except UserError as error:  # of samples that cannot be scored; the same on all processes
            self.unreadable[name] = str(error)
            return
        record = Record(snapshot.nimg, metrics, self.history.made_by, about)
        self.history.add(record, write=distributed.is_main())
        if distributed.is_main():
            self.result().save(self.dest)
        text = ", ".join(metric.line for metric in metrics)
        distributed.print0(f"{name}: {text}; {time.monotonic() - started:.1f} s", file=sys.stderr)

    @property
    def newest(self) -> int:
        """Images of training of the newest snapshot that is scored."""
        return max((record.nimg for record in self.history.records), default=0)

    def result(self, target: float | None = None, images: int | None = None, lines: Sequence[str] = ()) -> Result:
        """Return the scores so far. Raises UserError if there are none."""
        records = self.history.records
        if not records:
            reasons = [f": {name}: {reason}" for name, reason in self.unreadable.items()][:1]
            raise UserError(f"{self.folder} holds no snapshot that could be scored{''.join(reasons)}")
        extra = [f"{name} is left out: {reason}" for name, reason in self.unreadable.items()]
        if target is not None:
            first, metric = first_to_reach(records, target), records[0].first.metric
            extra.append(reached(first, target, images) if first else f"{metric} {target:g} was not reached")
        about = {**self.about, "run": str(self.folder)}
        return as_result("watch", records, about, [*extra, *lines], lambda record: record.about["snapshot"])


def images_of(trained: dict[str, Any]) -> int | None:
    """Return the number of training images, if the data is still there."""
    try:
        return len(open_images(DataOptions(**bind(DataOptions, trained["dataset"], "dataset")), None))
    except UserError:
        return None
