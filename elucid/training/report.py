"""Reports progress, statistics and timings of a run to its loggers."""

import os
import time
from pathlib import Path

import psutil
import torch

from elucid.training.hooks.base import Hook, Values
from elucid.training.hooks.provenance import describe_process
from elucid.training.loggers.base import Loggers

LOSS_EVERY = 2.0
"""Minimum number of seconds between two readings of the loss within a tick, each a step later."""


class LoggingHook(Hook):
    """Hook that passes steps and ticks on to the loggers."""

    def __init__(self, loggers: Loggers):
        self.loggers = loggers
        self.loss_shown, self.moments = time.monotonic(), None

    def on_start(self, run, folder: Path) -> None:
        self.loggers.describe(describe_process(run.device))
        self.loggers.start(run.options, run.nimg)

    def on_step(self, run, images: int) -> None:
        loss = None
        if self.moments is not None:
            (count, total, _), self.moments = self.moments.read(), None
            loss = total / count if count else None
        elif time.monotonic() - self.loss_shown > LOSS_EVERY:
            self.moments, self.loss_shown = run.stats.later("Loss/loss"), time.monotonic()
        self.loggers.step(run.nimg, loss)

    def on_tick(self, run, values: Values) -> None:
        self.loggers.values(values, run.nimg)

    def close(self) -> None:
        self.loggers.close()


class TickTimer:
    """Measures the duration of ticks and of the maintenance between them, and adds both to `run.elapsed`."""

    def __init__(self, run):
        self.tick_started = time.monotonic()  # a clock that is set while training changes no duration
        self.first_nimg = run.nimg  # a run resumed within a tick counts only its own images
        self.maintenance, self.waited = 0.0, run.stream.waited

    def end_tick(self, run) -> Values:
        """Return the statistics of the tick over all processes.

        All processes must call it together, before `run.tick_start_nimg` is updated.
        """
        now = time.monotonic()
        seconds = now - self.tick_started
        kimg = max(run.nimg - max(run.tick_start_nimg, self.first_nimg), 1) / 1000
        run.elapsed += seconds + self.maintenance
        values = {
            "Progress/tick": run.tick,
            "Progress/kimg": run.nimg / 1000,
            **{f"Optimizer/lr{suffix(phase)}": optimizer.lr for phase, optimizer in run.optimizers.items()},
            "Timing/total_sec": run.elapsed,
            "Timing/sec_per_tick": seconds,
            "Timing/sec_per_kimg": seconds / kimg,
            "Timing/images_per_sec": kimg * 1000 / max(seconds, 1e-9),
            "Timing/maintenance_sec": self.maintenance,
            "Optimizer/steps_left_out": run.divergence.left_out,
            "Resources/cpu_mem_gb": psutil.Process(os.getpid()).memory_info().rss / 2**30,
            "Resources/peak_gpu_mem_gb": 0.0,
            "Resources/peak_gpu_mem_reserved_gb": 0.0,
        }
        if run.device.type == "cuda":
            values["Resources/peak_gpu_mem_gb"] = torch.cuda.max_memory_allocated(run.device) / 2**30
            values["Resources/peak_gpu_mem_reserved_gb"] = torch.cuda.max_memory_reserved(run.device) / 2**30
            torch.cuda.reset_peak_memory_stats(run.device)
        waited, self.waited = run.stream.waited - self.waited, run.stream.waited
        run.stats.report("Timing/data_wait_sec", torch.tensor(waited))  # the mean over processes
        statistics = run.stats.collect()
        self.maintenance = 0.0
        self.tick_started = now
        return {**statistics, **{name: {"num": 1, "mean": value, "std": 0.0} for name, value in values.items()}}

    def add_unfinished_tick(self, run) -> None:
        """Add the time of the unfinished tick to `run.elapsed`, when a run stops within it."""
        run.elapsed += time.monotonic() - self.tick_started + self.maintenance

    def end_maintenance(self) -> None:
        """Mark the end of saving and the start of the next tick."""
        now = time.monotonic()
        self.maintenance, self.tick_started = now - self.tick_started, now


def suffix(phase: str) -> str:
    """Return the suffix for the names of a phase's statistics; empty for the main phase."""
    return "" if phase == "main" else f"_{phase}"
