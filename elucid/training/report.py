"""What a run says while it trains: the statistics and times of every tick, handed to its loggers."""

import os
import time
from pathlib import Path

import psutil
import torch

from elucid.training.hooks.base import Hook, Values
from elucid.training.loggers.base import Loggers

LOSS_EVERY = 2.0
"""Seconds between two looks at the loss within a tick."""


class Report(Hook):
    """The hook that hands steps and ticks on to the loggers."""

    def __init__(self, loggers: Loggers):
        self.loggers = loggers
        self.loss_shown = time.monotonic()

    def on_start(self, run, folder: Path) -> None:
        self.loggers.start(run.options, run.nimg)

    def on_step(self, run, images: int) -> None:
        loss = None
        if time.monotonic() - self.loss_shown > LOSS_EVERY:  # not at every step: a device would be waited for
            loss, self.loss_shown = run.stats.mean("Loss/loss"), time.monotonic()
        self.loggers.step(run.nimg, loss)

    def on_tick(self, run, values: Values) -> None:
        self.loggers.values(values, run.nimg)

    def close(self) -> None:
        self.loggers.close()


class TickTimer:
    """Times of ticks and of the maintenance between them; adds to `run.elapsed`."""

    def __init__(self, run):
        self.tick_started = time.time()
        self.first_nimg = run.nimg  # after a stop within a tick, speed counts what this process has done
        self.maintenance = 0.0

    def end_tick(self, run) -> Values:
        """The tick's statistics, of all processes, which must call it together; before `run.tick_start_nimg` moves."""
        now = time.time()
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
            "Resources/cpu_mem_gb": psutil.Process(os.getpid()).memory_info().rss / 2**30,
            "Resources/peak_gpu_mem_gb": 0.0,
            "Resources/peak_gpu_mem_reserved_gb": 0.0,
        }
        if run.device.type == "cuda":
            values["Resources/peak_gpu_mem_gb"] = torch.cuda.max_memory_allocated(run.device) / 2**30
            values["Resources/peak_gpu_mem_reserved_gb"] = torch.cuda.max_memory_reserved(run.device) / 2**30
            torch.cuda.reset_peak_memory_stats(run.device)
        statistics = run.stats.collect()
        self.maintenance = 0.0
        self.tick_started = now
        return {**statistics, **{name: {"num": 1, "mean": value, "std": 0.0} for name, value in values.items()}}

    def pause(self, run) -> None:
        """The run stops within a tick: its time counts."""
        run.elapsed += time.time() - self.tick_started + self.maintenance

    def end_maintenance(self) -> None:
        """Saving ends here; the next tick starts now."""
        now = time.time()
        self.maintenance, self.tick_started = now - self.tick_started, now


def suffix(phase: str) -> str:
    """What the names of a phase's values end with; the main phase's with nothing."""
    return "" if phase == "main" else f"_{phase}"
