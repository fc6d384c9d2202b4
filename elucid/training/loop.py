"""The training loop and its step. They are independent of the loss, network and dataset in use."""

from pathlib import Path

import torch

from elucid.dnnlib.errors import UserError
from elucid.torch_utils import distributed
from elucid.torch_utils.parallel import sync_gradients, wrap
from elucid.torch_utils.precision import set_precision
from elucid.torch_utils.signals import stop_signals
from elucid.training.checks import images_wanted, phases_wanted, require_finite_loss
from elucid.training.hooks.base import Hook
from elucid.training.report import TickTimer, suffix
from elucid.training.run import Run
from elucid.training.types import Step


def train(run: Run, folder: Path, hooks: Hook) -> bool:
    """Train up to `run.loop.total_nimg` images, saving to `folder`.

    Returns False if a signal stopped training early; the training state has then been saved.
    """
    set_precision(run.loop.precision, run.loop.bench)
    if run.loop.precision == "fp16" and run.device.type != "cuda":
        run.log("warning: fp16 needs CUDA; training in float32 instead (--precision=bf16 works on every device)")
    if run.loop.compile:
        run.denoiser.model.compile()
    objective = wrap(run.objective, run.device)
    timer = TickTimer(run)
    with stop_signals() as stop:
        run.stop = stop
        try:
            hooks.on_start(run, folder)
            while run.nimg < run.loop.total_nimg and not distributed.any_rank(stop.requested):
                hooks.on_step(run, train_step(run, objective))
                if run.nimg >= run.tick_start_nimg + run.loop.tick_kimg * 1000 or run.nimg >= run.loop.total_nimg:
                    end_tick(run, folder, hooks, timer)
        except torch.OutOfMemoryError as error:
            raise UserError(f"out of memory: {str(error).partition('. ')[0]}; use a smaller `batch_gpu`") from error
        finally:
            hooks.close()
            run.stream.close()
        done = run.nimg >= run.loop.total_nimg
        if not done:
            timer.add_unfinished_tick(run)
            path = run.save_state(folder)
            run.save_snapshot(folder)
            run.log(f"stopped at {run.nimg / 1000:.1f} kimg; continue with --resume={path}")
    return done


def train_step(run: Run, objective) -> int:
    """Run one optimizer step for each phase of the loss, each on its own batch.

    Returns the number of images that the main phase used, over all processes.
    """
    images, stepped = 0, set()
    for phase in phases_wanted(run.loss, run.step):
        step = accumulate_gradients(run, objective, run.step.replace(phase=phase))
        if run.optimizers[phase].step_if_finite(step):
            stepped.add(phase)
        run.stats.report(f"Optimizer/grad_norm{suffix(phase)}", run.optimizers[phase].grad_norm)
        if phase == "main":
            images = step.batch_size
    run.scaler.update()
    step = run.step.replace(batch_size=images)
    if "main" in stepped:
        run.ema.update(run.denoiser, step)
    run.denoiser.after_step(step)
    run.loss.after_step(run.denoiser, step, stepped)
    run.nimg += images
    run.index += 1
    return images


def accumulate_gradients(run: Run, objective, step: Step) -> Step:
    """Accumulate the gradients of one phase over its micro-batches; returns `step` with the actual batch size."""
    micro_batch_size = run.micro_batch_size * images_wanted(run.loss, step)
    step = step.replace(batch_size=micro_batch_size * run.grad_accum_steps * distributed.world_size())
    optimizer = run.optimizers[step.phase]
    optimizer.set_lr(step)
    optimizer.zero_grad()
    with optimizer.only_trainable(run.objective):
        for index in range(run.grad_accum_steps):
            batch = run.stream.next(micro_batch_size)
            with sync_gradients(objective, last=index == run.grad_accum_steps - 1):
                out = objective(batch, step)
                run.scaler.scale(out.loss.sum() / (micro_batch_size * run.grad_accum_steps)).backward()
            whole = {} if step.phase == "main" else {step.phase: out.loss.detach()}
            for name, term in (whole | out.terms).items():
                run.stats.report(f"Loss/{name}", term)
            require_finite_loss(out, run.objective)
    return step


def end_tick(run: Run, folder: Path, hooks: Hook, timer: TickTimer) -> None:
    """Report statistics; every `state_ticks` and `snapshot_ticks` ticks, and at the end, save a state and a snapshot.

    `hooks.on_snapshot` runs last, since it may take long.
    """
    run.tick += 1
    hooks.on_tick(run, timer.end_tick(run))
    run.tick_start_nimg = run.nimg
    done = run.nimg >= run.loop.total_nimg
    if done or (run.loop.state_ticks and run.tick % run.loop.state_ticks == 0):
        run.save_state(folder)
    if done or (run.loop.snapshot_ticks and run.tick % run.loop.snapshot_ticks == 0):
        hooks.on_snapshot(run, run.save_snapshot(folder))
    timer.end_maintenance()
