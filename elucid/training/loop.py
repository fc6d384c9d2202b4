"""The train step and the loop around it. They never ask which loss, network or data they run."""

import os
import signal
import time
import warnings
from contextlib import contextmanager, nullcontext
from numbers import Integral
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from elucid.dnnlib.errors import UserError
from elucid.torch_utils import distributed
from elucid.torch_utils.precision import set_precision
from elucid.training.objective import require_finite_loss
from elucid.training.report import Log, Report
from elucid.training.run import Run
from elucid.training.sampling.generate import generate
from elucid.training.sampling.grid import save_grid
from elucid.training.types import Step


def train(run: Run, folder: Path, log: Log) -> bool:
    """Train until `run.loop.total_nimg`, saving into `folder`; False if a signal stopped it early (state saved)."""
    set_precision(run.loop.precision, run.loop.bench)
    if run.loop.precision == "fp16" and run.device.type != "cuda":
        log("warning: fp16 is for CUDA; this run computes in float32 (--precision=bf16 works on every device)")
    if run.loop.compile:
        run.denoiser.model.compile()
    objective = run.objective
    if distributed.world_size() > 1:
        # CPU kernels give gradients of 1x1 convolutions in another, equivalent stride order; copying them is cheap.
        warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
        objective = DistributedDataParallel(objective, gradient_as_bucket_view=True)
    report = Report(run, folder, log)
    with stop_signals() as stop:
        try:
            while run.nimg < run.loop.total_nimg and not distributed.any_rank(stop.requested):
                report.step(train_step(run, objective))
                if run.nimg >= run.tick_start_nimg + run.loop.tick_kimg * 1000 or run.nimg >= run.loop.total_nimg:
                    end_tick(run, folder, report)
        except torch.OutOfMemoryError as error:
            raise UserError(f"out of memory: {str(error).partition('. ')[0]}; give a smaller --batch-gpu") from error
        finally:
            report.close()
            run.batches.close()
        done = run.nimg >= run.loop.total_nimg
        if not done:
            report.pause()
            path = run.save_state(folder)
            run.save_snapshot(folder)
            log(f"stopped at {run.nimg / 1000:.1f} kimg; continue with --resume={path}")
    return done


def train_step(run: Run, objective) -> int:
    """One optimizer step on one batch (times the loss's image multiplier); returns the images seen by all processes."""
    multiplier = images_wanted(run)
    micro = run.micro * multiplier
    images = micro * run.rounds * distributed.world_size()
    step = Step(run.nimg, run.loop.total_nimg, run.loop.seed, images)
    run.optimizer.set_lr(step)
    run.optimizer.zero_grad(set_to_none=True)
    for index in range(run.rounds):
        batch = run.batches.take(micro)
        with gradient_sync(objective, last=index == run.rounds - 1):
            out = objective(batch, step)
            run.scaler.scale(out.loss.sum() / (micro * run.rounds)).backward()
        elements = out.elements or batch.images[0].numel()
        run.stats.report("Loss/loss", out.loss / elements)  # per element: comparable across sizes
        for name, term in out.terms.items():
            run.stats.report(f"Loss/{name}", term / elements)
        require_finite_loss(out, run.objective)
    run.scaler.unscale_(run.optimizer)
    if require_finite_gradients(run):
        run.optimizer.step()
    run.scaler.update()
    run.loss.after_step(run.denoiser, step)
    run.ema.update(run.denoiser, step)
    run.nimg += images
    return images


def images_wanted(run: Run) -> int:
    """How many times the batch the loss wants in this step. Raises UserError if that is no number of times."""
    multiplier = run.loss.image_multiplier(run.step)
    if not isinstance(multiplier, Integral) or multiplier < 1:
        name = type(run.loss).__name__
        raise UserError(f"loss {name}: image_multiplier returned {multiplier!r}; a whole number from 1 on is wanted")
    return multiplier


def end_tick(run: Run, folder: Path, report: Report) -> None:
    """Statistics, and every so many ticks a snapshot with its picture grid and a state; always both at the end."""
    run.tick += 1
    report.end_tick()
    run.tick_start_nimg = run.nimg
    done = run.nimg >= run.loop.total_nimg
    if done or (run.loop.snapshot_ticks and run.tick % run.loop.snapshot_ticks == 0):
        path = run.save_snapshot(folder)
        save_sample_grid(run, path.with_name(path.name.replace("network-snapshot", "samples")).with_suffix(".png"))
    if done or (run.loop.state_ticks and run.tick % run.loop.state_ticks == 0):
        run.save_state(folder)
    report.end_maintenance()


def save_sample_grid(run: Run, path: Path) -> None:
    """Images of seeds 0, 1, 2, ... from the first EMA, in the main process while the others wait."""
    if distributed.is_main() and run.loop.grid_images:
        denoiser = next(iter(run.ema.averages.values()))
        seeds = list(range(run.loop.grid_images))
        batches = [part.images for part in generate(denoiser, run.encoder, seeds, device=run.device)]
        save_grid(torch.cat(batches), path)
    distributed.barrier()


def require_finite_gradients(run: Run) -> bool:
    """True if all gradients are finite; False if fp16 overflowed, so that the step is left out and the scale falls.

    Raises UserError naming the first bad parameter otherwise.
    """
    named = [(name, p.grad) for name, p in run.objective.named_parameters() if p.grad is not None]
    if all(p.grad is None for p in run.denoiser.parameters()):
        name = type(run.loss).__name__
        raise UserError(f"loss {name} gives the network no gradient; compute it from the denoiser's prediction")
    finite = torch.stack(torch._foreach_norm([grad for _, grad in named])).isfinite()
    if bool(finite.all()):
        return True
    if run.scaler.is_enabled() and run.scaler.get_scale() > 2**-16:
        return False
    name = named[int(finite.logical_not().nonzero()[0])][0]
    raise UserError(
        f"gradient of {name} is not finite at {run.nimg / 1000:.1f} kimg; lower --lr, use --precision=bf16 or fp32, "
        "or check the loss"
    )


def gradient_sync(objective, last: bool):
    """Let processes exchange gradients in the last of several accumulated backward passes only."""
    if last or not isinstance(objective, DistributedDataParallel):
        return nullcontext()
    return objective.no_sync()


class _Stop:
    requested = False
    since = 0.0


SAME_SIGNAL = 1.0
"""Seconds within which a second signal is the first one's echo: launchers pass on what the terminal sent to all."""


@contextmanager
def stop_signals():
    """SIGTERM and Ctrl-C set `requested`, so that the step is finished first; a second one acts at once."""
    stop = _Stop()

    def handle(number, frame):
        now = time.monotonic()
        if not stop.requested:
            stop.requested, stop.since = True, now
            if distributed.is_main():  # not by print, which may be at work where the signal came
                os.write(2, b"\nstopping after this step, with a state to resume from; once more stops at once\n")
        elif now - stop.since > SAME_SIGNAL:
            signal.signal(number, previous[number])
            signal.raise_signal(number)

    previous = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        for one in previous:
            signal.signal(one, handle)
        yield stop
    finally:
        for one, old in previous.items():
            signal.signal(one, old)
