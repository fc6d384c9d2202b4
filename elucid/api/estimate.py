"""Estimates memory, time and disk space of a run by timing a step on this device."""

import math
import time
from collections.abc import Iterator

import psutil
import torch

from elucid.training.loop import train_step
from elucid.training.losses.base import Copies
from elucid.training.run import Run

PATIENCE = 20.0
"""Approximate time limit for measuring, in seconds; 0 disables it."""

OPTIMIZER_COPIES = 2
"""Number of weight-sized tensors in the state of Adam, the usual optimizer."""


def estimate(options: dict, device: torch.device, parameters: int, of_loss: Copies) -> Iterator[str]:
    """Yield lines about memory, time and disk space. A network that does not fit into memory is not built.

    `of_loss` are networks of the same number of parameters that the loss has besides it.
    """
    loop, trained = options["loop"], 1 + of_loss.trained
    copies = (2 + OPTIMIZER_COPIES) * trained + len(_averages(options)) + of_loss.opened + of_loss.kept
    need, free = 4 * parameters * copies, _free_memory(device)
    also = f" of {sum(of_loss) + 1} networks" if any(of_loss) else ""
    yield f"memory    {_gb(need)} for weights, gradients, optimizer and EMA{also}; {_gb(free)} free on {device}"
    if PATIENCE and need > 0.7 * free:
        yield "time      not measured, as the network does not fit into memory"
    elif PATIENCE:
        yield from timed(Run(options, device))
    snapshots, states = (_count(loop, key) for key in ("snapshot_ticks", "state_ticks"))
    snapshot = 4 * parameters * len(_averages(options))
    state = 4 * parameters * ((1 + OPTIMIZER_COPIES) * trained + len(_averages(options)) + of_loss.kept)
    yield (
        f"disk      {_gb(snapshots * snapshot + states * state)}: {snapshots} snapshots of {_gb(snapshot)}, "
        f"{states} states of {_gb(state)}"
    )


def timed(run: Run) -> Iterator[str]:
    """Yield lines about the time of a step and of the run, extrapolated from smaller batches, and the peak memory."""
    micro, passes = run.micro_batch_size, run.grad_accum_steps
    few = run.loss.batch_multiple
    run.grad_accum_steps, run.micro_batch_size = 1, few
    _seconds(run)  # warms up
    small = _seconds(run)
    # Increase the batch from the least as far as time allows; on a GPU measure the real micro-batch.
    affordable = int(PATIENCE / 2 / max(small / few, 1e-6)) // few * few
    many = micro if run.device.type == "cuda" else max(few, min(micro, affordable))
    run.micro_batch_size = many
    large = _seconds(run) if many > few else small
    per_image = (large - small) / (many - few) if many > few else small / few
    per_image = per_image if per_image > 0 else large / many
    step = max(large - many * per_image, 0) + per_image * micro * passes
    steps = math.ceil(run.loop.total_nimg / run.loop.batch_size)
    measured = f"scaled from passes of {many}" if many * passes != micro * passes else "measured"
    yield (
        f"time      {step:.3g} s per step of {run.loop.batch_size} images ({measured}): "
        f"{_hours(steps * step)} for {run.loop.total_nimg / 1000:,.0f} kimg on {run.device}"
    )
    if run.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(run.device)
    else:
        peak = psutil.Process().memory_info().rss
    yield f"peak      {_gb(peak)} of memory, images per micro-batch: {many}"


def _seconds(run: Run) -> float:
    started = time.perf_counter()
    train_step(run, run.objective)
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    return time.perf_counter() - started


def _averages(options: dict) -> list:
    given = options["ema"].get("halflife_mimg", [0.5])
    return given if isinstance(given, list) else [given]


def _count(loop: dict, key: str) -> int:
    """Return how many files a run writes: one every `key` ticks, and one at the end."""
    ticks = math.ceil(loop["duration_mimg"] * 1000 / loop["tick_kimg"])
    return ticks // loop[key] + bool(ticks % loop[key]) if loop[key] else 1


def _free_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return (
        f"{seconds / 60:.1f} minutes" if hours < 1 else f"{hours:,.1f} hours" if hours < 1000 else f"{hours:,.0f} hours"
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:.2g} GB" if size < 1e11 else f"{size / 1e12:.2g} TB"
