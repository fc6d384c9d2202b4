"""The training loop and its step. They are independent of the loss, network and dataset in use."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from elucid.dnnlib.errors import UserError
from elucid.torch_utils import distributed
from elucid.torch_utils.determinism import deterministic
from elucid.torch_utils.parallel import sync_gradients, wrap
from elucid.torch_utils.precision import set_precision, what_is_lacking
from elucid.torch_utils.weights.working import working_weights
from elucid.training.checks import images_wanted, phases_wanted
from elucid.training.divergence import summed
from elucid.training.hooks.base import Hook
from elucid.training.memory import memory_explained
from elucid.training.optim.phase import Stepped
from elucid.training.report import TickTimer, suffix
from elucid.training.run import Run
from elucid.training.saving import Saver
from elucid.training.types import Step


def train(run: Run, folder: Path, hooks: Hook) -> bool:
    """Train up to `run.loop.total_nimg` images, saving to `folder`.

    Returns False if `run.stop` was requested before; the training state has then been saved. Raises UserError if
    training diverges, or nothing can be saved.
    """
    set_precision(run.loop.precision, run.loop.bench)
    if lacking := what_is_lacking(run.loop.precision, run.device):
        run.log(f"warning: {lacking}")
    objective = wrap(run.objective, run.device, find_unused=not run.objective.uses_all_parameters)
    timer = TickTimer(run)
    with working_as_asked(run), Saver(folder, run.loop, run.log, run.stop, run.shards) as saver:
        saver.expect(run)
        try:
            with memory_explained(run):
                run.stop.training = True
                hooks.on_start(run, folder)
                while run.nimg < run.loop.total_nimg and not run.stop.agreed():
                    hooks.on_step(run, train_step(run, objective))
                    saver.check()
                    due = run.nimg >= min(run.tick_start_nimg + run.loop.tick_kimg * 1000, run.loop.total_nimg)
                    if due:
                        run.divergence.settle()
                    if run.divergence.too_many:
                        go_back(run, folder, hooks, saver)
                    elif due:
                        end_tick(run, hooks, timer, saver)
        finally:
            hooks.close()
            run.stream.close()
        done = run.nimg >= run.loop.total_nimg
        if not done:
            timer.add_unfinished_tick(run)
            path = saver.state(run)
            saver.snapshot(run)
        saver.wait()
        if not done:
            run.log(f"stopped at {run.nimg / 1000:.1f} kimg; continue with --resume={path}")
    return done


@contextmanager
def working_as_asked(run: Run) -> Iterator[None]:
    """Context of the training, with deterministic kernels and a compiled network if the run wants them."""
    with ExitStack() as stack:
        stack.enter_context(deterministic(run.loop.deterministic, run.device))
        if run.loop.compile:
            stack.enter_context(run.denoiser.compiled(lambda text: run.log(text)))
        yield


def train_step(run: Run, objective) -> int:
    """Run one optimizer step for each phase of the loss, each on its own batch.

    A phase whose loss or gradient is not finite on any process is left out on all. Returns the number of images that
    the main phase used, over all processes.
    """
    images, stepped, diverged = 0, {}, {}
    for phase in phases_wanted(run.loss, run.step):
        step = accumulate_gradients(run, objective, run.step.replace(phase=phase))
        optimizer = run.optimizers[phase]
        stepped[phase] = optimizer.step_if_finite()
        diverged[phase] = optimizer.diverged
        run.stats.report(f"Optimizer/grad_norm{suffix(phase)}", optimizer.grad_norm)
        if phase == "main":
            images = step.batch_size
    run.scaler.update()
    step = run.step.replace(batch_size=images)
    run.divergence.note(diverged, step)
    if "main" in stepped:
        run.ema.update_if(stepped["main"], run.denoiser, step)
    run.denoiser.after_step(step)
    run.loss.after_step(run.denoiser, step, Stepped(stepped))
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
    with optimizer.only_trainable(run.objective), working_weights(run.objective, keep=True):
        for index in range(run.grad_accum_steps):
            batch = run.stream.next(micro_batch_size)
            run.divergence.last = batch, step
            with sync_gradients(objective, last=index == run.grad_accum_steps - 1):
                out = objective(batch, step)
                run.scaler.scale(summed(out.loss) / (micro_batch_size * run.grad_accum_steps)).backward()
            whole = {} if step.phase == "main" else {step.phase: out.loss.detach()}
            for name, term in (whole | out.terms).items():
                run.stats.report(f"Loss/{name}", term)
    return step


def end_tick(run: Run, hooks: Hook, timer: TickTimer, saver: Saver) -> None:
    """Report statistics; every `state_ticks` and `snapshot_ticks` ticks, and at the end, save a state and a snapshot.

    While steps are left out no state is saved, so that the last one is good. `hooks.on_snapshot` runs last, as it may
    take long.
    """
    run.tick += 1
    values = timer.end_tick(run)
    hooks.on_tick(run, values)
    run.divergence.watch(values.get("Loss/loss", {}).get("mean"), run.nimg / 1000)
    run.tick_start_nimg = run.nimg
    done = run.nimg >= run.loop.total_nimg
    due = run.loop.state_ticks and run.tick % run.loop.state_ticks == 0
    if done or (due and not run.divergence.in_a_row):
        saver.state(run)
    if done or (run.loop.snapshot_ticks and run.tick % run.loop.snapshot_ticks == 0):
        path = saver.snapshot(run)
        if hooks.reads_snapshots:
            saver.wait()
        hooks.on_snapshot(run, path)
    timer.end_maintenance()


def go_back(run: Run, folder: Path, hooks: Hook, saver: Saver) -> None:
    """Return to the last good state, once, with other data to come. Raises UserError, naming step and layer, if not."""
    position, found, what = run.stream.position, None, run.divergence.describe(run.objective)
    if not run.divergence.returned:
        saver.wait()
        found = saver.files.newest()
    if found is None:
        again = "after a return to its last good state" if run.divergence.returned else "and has no state to return to"
        raise UserError(
            f"training has diverged {again}: {run.divergence.in_a_row} steps in a row are not finite, the last is "
            f"{what}; lower `lr`, use `precision`=bf16 or fp32, or check the loss"
        )
    path, state = found
    run.load_state_dict(state)
    run.stream.position, run.divergence.returned, run.divergence.in_a_row = position, True, 0
    run.log(f"warning: training has diverged in {what}; going back to {path} once, with other data to come")
    hooks.on_start(run, folder)
