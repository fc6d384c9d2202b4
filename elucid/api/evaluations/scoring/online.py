"""Scores a run while it trains, and keeps its best snapshot: `train.py --eval=5k@25`."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elucid.api.evaluations.scoring.training_reference import (
    Interrupted,
    in_step,
    needs_reference,
    open_images,
    training_evaluator,
)
from elucid.api.evaluator import Evaluator, Score, described
from elucid.api.sources import Source, own_places, spans
from elucid.dnnlib.config import bind
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import write_output
from elucid.dnnlib.reading.json_text import read_json
from elucid.evaluation.history import History, Record, as_result, better, first_to_reach, images_text, reached
from elucid.evaluation.results import FOLDER
from elucid.metrics.detectors import Detector, make_detector, require_suitable, takes_arrays
from elucid.metrics.measures.collect import Wanted, require_outputs
from elucid.metrics.measures.evaluate import require_counts
from elucid.metrics.measures.names import metric_names
from elucid.metrics.reference import Provenance
from elucid.torch_utils import distributed
from elucid.torch_utils.precision import set_precision
from elucid.torch_utils.rng import random_state_kept
from elucid.training.config.settings import DataOptions, EvalOptions, eval_options
from elucid.training.guidance.clipping import clipped
from elucid.training.hooks.base import Hook, Values
from elucid.training.preconds.base import Denoiser
from elucid.training.registry.components import make, resolved
from elucid.training.run import Run
from elucid.training.sampling.choices import NUMBER_OF_STEPS
from elucid.training.sampling.conditions.given import of_run
from elucid.training.sampling.generate import generate
from elucid.training.sampling.output.folder import digest
from elucid.training.snapshots.snapshot import chosen, save_snapshot
from elucid.training.transforms.lowres import NAME

USUAL = "efflite0"
"""Detector used by default, if its weights are installed."""

BEST, BEST_NOTE = "best-snapshot.pkl", "best-snapshot.json"
"""The best snapshot and what is known of it; not called `network-snapshot-*.pkl`, of which the newest counts."""


def scoring_hooks(run: Run) -> list[Hook]:
    """Return the hook that scores a run as its options say, or none. Raises UserError before anything is written."""
    options = eval_options(run.options)
    if options is None:
        return []
    with random_state_kept(run.device):  # a detector draws its initial weights; training must not notice
        detector = require_scorable(options, data_options(run.options), run.dataset, run.denoiser, run.device)
        if options.detector is None:
            options.detector = run.options["eval"]["detector"] = detector.name  # so that a resumed run takes the same
        return [OnlineScores(run, options, detector)]


def require_scorable(options: EvalOptions, data: DataOptions, dataset, denoiser, device: torch.device) -> Detector:
    """Return the detector. Raises UserError if the model's samples cannot be scored as the options say."""
    if not isinstance(denoiser, Denoiser):
        raise UserError(f"`eval`: a {type(denoiser).__name__} makes no images that could be scored; leave `eval` out")
    if NAME in denoiser.spec.spatial:
        raise UserError("`eval`: models that enlarge images are not scored while they train; leave `eval` out")
    metrics = metric_names(options.metrics)
    if options.ref is None and needs_reference(metrics):
        if dataset.encoder is not None:
            raise UserError(f"`eval`: {dataset.path} holds latents; give images to compare with: --set eval.ref=FILE")
        open_images(data, 2, dataset.arrays is not None)
    detector = usable_detector(options.detector, options.detector_weights, device)
    require_outputs(detector, Wanted.of(metrics))
    require_counts(metrics, options.num, "generated", detector.dim)
    if dataset.arrays is not None or takes_arrays(detector):
        blank = torch.zeros(1, *denoiser.spec.sample_shape)
        require_suitable(detector, blank if dataset.arrays is not None else blank.to(torch.uint8))
        detector(blank)
    elif not denoiser.spec.latent:  # the detector may find the images too small
        channels = 1 if denoiser.spec.image_channels == 1 else 3
        detector(torch.zeros(1, channels, *denoiser.spec.resolution, dtype=torch.uint8))
    return detector


def check_scoring(options: dict, dataset, denoiser, device: torch.device) -> None:
    """Raise UserError if a run with these options could not be scored as they say."""
    scoring = eval_options(options)
    if scoring is not None:
        require_scorable(scoring, data_options(options), dataset, denoiser, device)


def data_options(options: dict) -> DataOptions:
    return DataOptions(**bind(DataOptions, options["dataset"], "dataset"))


def usable_detector(name: str | None, weights: str | os.PathLike | None, device: torch.device) -> Detector:
    """Return the named detector, or else the usual one, or random features with a note if it is not installed."""
    if name is not None:
        return make_detector(name, device, weights)
    try:
        return make_detector(USUAL, device, weights)
    except UserError as error:
        if weights is not None:
            raise
        distributed.print0(f"note: scoring in random features, which compare only runs of your own: {error}")
        return make_detector("random", device)


class OnlineScores(Hook):
    """Scores samples of the first EMA, seeds 0 to N-1, every `ticks` ticks and at the end, on all processes together.

    Adds `Eval/kid5k_efflite0` and the like to the statistics of the tick; keeps the snapshot that is best by the first
    metric; writes `evaluations/online.json`. Training goes on as it would without: no random numbers are drawn.
    """

    def __init__(self, run: Run, options: EvalOptions, detector: Detector):
        self.options, self.detector = options, detector
        self.metrics = metric_names(options.metrics)
        self.ema = str(options.ema) if options.ema is not None else next(iter(run.averages))
        denoiser: Any = chosen(run.averages, self.ema)
        if options.guidance is not None:
            denoiser = make({"name": "cfg", "scale": options.guidance}, "guidance", denoiser=denoiser)
        self.denoiser, self.schedule = clipped(denoiser), run.schedule
        if options.steps is not None:
            kept = {name: value for name, value in resolved(run.schedule).items() if name not in NUMBER_OF_STEPS}
            self.schedule = make({**kept, "num_steps": options.steps}, "schedule")
        self.schedule(self.denoiser, run.sampler.default_steps)  # impossible levels are refused here
        self.evaluator: Evaluator | None = None
        if options.ref is not None:
            self.evaluator = self._against(options.ref, run.device)

    def _against(self, ref: str | None, device: torch.device) -> Evaluator:
        weights, batch = self.options.detector_weights, self.options.batch
        return Evaluator(ref, self.metrics, self.options.detector, weights, batch=batch, device=device)

    def on_start(self, run, folder: Path) -> None:
        self.folder = folder
        with random_state_kept(run.device):
            try:
                self.evaluator = self.evaluator or self._of_training_data(run, folder)
            except Interrupted:
                return  # the loop ends before its first step
        self.about = self._description(run)
        self.history = History(folder / FOLDER / "online.jsonl", digest(self.about))
        distributed.barrier()  # all have read the file
        self.history.cut(run.nimg, write=distributed.is_main())
        # A new run in an old folder has no best snapshot yet.
        self.best = read_note(folder / BEST_NOTE, self.history.made_by) if run.nimg else None
        every = f"every {self.options.ticks * run.loop.tick_kimg:g} kimg and " if self.options.ticks else ""
        against = self.evaluator.references[0]
        images = "no reference" if against is None else f"{against.count} images of {against.path}"
        names = ", ".join(self.metrics)
        run.log(f"scores    {names} of {self.options.num} samples {every}at the end, {self.detector.name}, {images}")

    def _of_training_data(self, run, folder: Path) -> Evaluator:
        options = self.options
        return training_evaluator(
            folder, data_options(run.options), self.metrics, str(options.detector), options.detector_weights,
            options.ref_num, batch=options.batch, device=run.device, network=self.detector, stop=run.stop,
        )  # fmt: skip

    def on_tick(self, run, values: Values) -> None:
        done = run.nimg >= run.loop.total_nimg
        due = self.options.ticks and run.tick % self.options.ticks == 0
        if not (done or due) or self.evaluator is None:
            return
        started = time.monotonic()
        try:
            with random_state_kept(run.device), sampling_precision(run), run.gathered(self.ema):
                score = self.evaluator(self._samples(run))
        except Interrupted:
            run.log(f"eval      stopped, so there is no score at {run.nimg / 1000:g} kimg")
            return
        except UserError as error:  # of samples that cannot be scored yet; the same on all processes
            run.log(f"warning: no score at {run.nimg / 1000:g} kimg: {error}")
            return
        seconds = time.monotonic() - started
        values |= {f"Eval/{metric.name}": one_value(metric.value) for metric in score.metrics}
        values["Timing/eval_sec"] = one_value(seconds)
        self._keep(run, score, seconds)
        if done:
            self._conclude(run)

    def _samples(self, run) -> Source:
        """Return the samples of all processes, which all leave together when a stop is requested."""
        num = self.options.num
        share = min(self.options.batch, -(-num // distributed.world_size()))
        own = distributed.rank_share(range(num), share)
        rounds = -(-num // (share * distributed.world_size()))
        batches = in_step((self._batch(run, seeds) for seeds in own), rounds, run.stop)
        policy = "random by seed" if self.denoiser.spec.label_dim else "none"
        made = Provenance(file_format="none (sampled)", label_policy=policy)
        about = {"seeds": spans(list(range(num)))}
        return Source(batches, num, about, own_places(num, share), [str(seed) for seed in range(num)], made)

    def _batch(self, run, seeds) -> Tensor:
        def watch(*_) -> None:
            if run.stop.requested:
                raise Interrupted

        how = {"device": run.device, "sampler": run.sampler, "schedule": self.schedule, "callback": watch}
        how["given"] = of_run(run)
        parts = generate(self.denoiser, run.encoder, seeds, batch_size=len(seeds), **how)
        return torch.cat([part.images for part in parts])

    def _keep(self, run, score: Score, seconds: float) -> None:
        """Record the score, and the snapshot if it is the best."""
        record = Record(run.nimg, score.metrics, self.history.made_by, {"tick": run.tick, "seconds": round(seconds, 3)})
        first, known = record.first, self.best
        top = known is None or better(first.metric, first.value, known["value"])
        target = self.options.target
        before = None if target is None else first_to_reach(self.history.records, target)
        self.history.add(record, write=distributed.is_main())
        snapshot = run.snapshot() if top else None
        if distributed.is_main():
            result = as_result("online", self.history.records, self.about)
            result.save(self.folder / FOLDER / "online.json")
            if snapshot is not None:
                save_snapshot(self.folder / BEST, snapshot)
                note = {**first.as_dict(), "nimg": run.nimg, "kimg": run.nimg / 1000, "snapshot": BEST, "ema": self.ema}
                with write_output(self.folder / BEST_NOTE) as file:
                    text = json.dumps({**note, "made_by": self.history.made_by, "about": self.about}, indent=1)
                    file.write(text.encode() + b"\n")
        if top:
            self.best = {**first.as_dict(), "nimg": run.nimg}
        distributed.barrier()
        others = "".join(f", {metric.line}" for metric in score.metrics[1:])
        worth = "best so far" if top or known is None else f"best {known['value']:.6g} at {known['nimg'] / 1000:g} kimg"
        run.log(f"eval      {first.line}{others}; {worth}; {seconds:.1f} s")
        if target is not None and before is None and first_to_reach([record], target) is not None:
            run.log(reached(record, target, len(run.dataset)))

    def _conclude(self, run) -> None:
        if self.best is not None:
            name, value, kimg = self.best["name"], self.best["value"], self.best["nimg"] / 1000
            run.log(f"best      {name} {value:.6g} at {kimg:g} kimg: {self.folder / BEST}")
        target = self.options.target
        if target is not None and first_to_reach(self.history.records, target) is None:
            run.log(f"note: {self.metrics[0]} {target:g} was not reached within {images_text(run.nimg)}")

    def _description(self, run) -> dict[str, Any]:
        """Return what decides the scores, apart from the weights."""
        assert self.evaluator is not None
        reference = self.evaluator.references[0]
        data = None if reference is None else reference.provenance.data_sha256 or reference.path
        return {
            "metrics": list(self.metrics),
            "num": self.options.num,
            **described(self.detector),
            "ref": data,
            "ema": self.ema,
            "sampler": resolved(run.sampler),
            "schedule": resolved(self.schedule),
            "guidance": self.options.guidance,
            "precision": run.loop.precision,
        }


def one_value(value: float) -> dict[str, float]:
    """Return a single value in the form of the statistics of a tick."""
    return {"num": 1, "mean": value, "std": 0.0}


@contextmanager
def sampling_precision(run) -> Iterator[None]:
    """Sample without cuDNN benchmarking, which would make rounding differ from run to run, in the run's precision."""
    set_precision(run.loop.precision, bench=False)
    try:
        yield
    finally:
        set_precision(run.loop.precision, run.loop.bench)


def read_note(path: Path, made_by: str) -> dict[str, Any] | None:
    """Return what is known of the best snapshot, on all processes, if it was scored in the same way."""
    note = None
    if distributed.is_main():
        try:
            note = read_json(path)
            note = {name: note[name] for name in ("name", "value", "nimg")} if note["made_by"] == made_by else None
        except (UserError, KeyError, TypeError):
            note = None
    return distributed.broadcast_object(note)
