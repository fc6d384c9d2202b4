"""Starts or resumes a training run."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from elucid.api.estimate import estimate
from elucid.api.evaluations.scoring.online import check_scoring, scoring_hooks
from elucid.dnnlib.errors import Stopped, UserError
from elucid.evaluation.weighting import LearnedWeighting
from elucid.torch_utils import distributed
from elucid.torch_utils.checkpoint import states_in
from elucid.torch_utils.signals import StopRequest, stop_signals
from elucid.training.config.check import check
from elucid.training.config.loss_chains import set_teacher
from elucid.training.config.options import describe, explicit, options_from
from elucid.training.config.run_folders import (
    claim,
    find_state,
    folder_before_restart,
    holds_a_run,
    merge_options,
    new_folder,
    remove_leftovers,
    started_again_without_memory,
)
from elucid.training.config.settings import AUTO
from elucid.training.config.train_options import TrainOptions
from elucid.training.hooks.base import Hook, Hooks
from elucid.training.hooks.grid import SampleGrid
from elucid.training.hooks.provenance import Provenance
from elucid.training.loggers.base import Loggers, require_package
from elucid.training.loop import train as train_loop
from elucid.training.memory import fit_batch
from elucid.training.registry.components import find, make, split
from elucid.training.report import LoggingHook
from elucid.training.run import Run, write_options
from elucid.training.snapshots.snapshot import load_snapshot
from elucid.training.snapshots.trust import code_names, import_plugins, require_named
from elucid.training.stopping import limit_time, stopped_by_itself

OF_STATE_DICTS = ("adm_preset", "checkpoint_model")
"""Options of a public state dict that a run starts from."""

PATIENCE = 30.0
"""Seconds that a resumed run waits for processes whose torchrun was killed, and which are saving."""


def train(options: TrainOptions, hooks: Iterable[Hook] = ()) -> Path:
    """Train a model to the end and return the run's folder, which contains snapshots, states, log and options.

    `hooks` are called during training (see `elucid.training.hooks.base.Hook`). On Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP,
    and before `time_limit` is over, the current step is finished, state and snapshot are saved, and `elucid.Stopped` is
    raised, a KeyboardInterrupt with the `folder`. Under torchrun all processes must call it. Raises UserError for
    invalid options, a run that diverges and a full disk.
    """
    with stop_signals() as stop:
        limit_time(stop, options.time_limit)
        try:
            return run_to_the_end(options, hooks, stop)
        except RuntimeError as error:
            if not distributed.lost_peer(error):
                raise
            raise UserError("another process of this run has ended; what is saved goes on with `resume`") from error


def run_to_the_end(options: TrainOptions, hooks: Iterable[Hook], stop: StopRequest) -> Path:
    """Build or resume the run and train it; see `train`."""
    device = distributed.choose_device(options.device)
    distributed.init(device)
    flags = options.flags()
    import_plugins(flags["plugins"])
    resolved, folder, state = options_and_state(options, flags)
    require_loggers(resolved)
    source = load_source((flags["transfer"] or flags["teacher"]) if state is None else None, flags, resolved)
    run = Run(resolved, device, source)
    run.stop = stop
    own = [make(one, "hook") for one in resolved.get("hooks", [])]
    for hook in own:
        hook.check(run)
    scores = scoring_hooks(run)
    if folder is None:
        description = describe(resolved, distributed.world_size(), flags["desc"])
        folder = distributed.broadcast_object(
            new_folder(flags["outdir"], description, flags["nosubdir"]) if distributed.is_main() else None
        )
    with claim(folder, PATIENCE if state else 0) if distributed.is_main() else nullcontext():
        folder_before_restart(folder)
        loggers = Loggers([make(one, "logger", folder=folder) for one in loggers_of(resolved)])
        run.log = loggers
        start(run, folder, state)
        state = source = None  # free memory before training
        # Scores and losses come before the log, as they become part of a tick's statistics.
        first, later = ([hook for hook in own if hook.adds_values == early] for early in (True, False))
        drawn = [LearnedWeighting()] if run.denoiser.spec.logvar_features else []
        every = [Provenance(), *scores, *first, LoggingHook(loggers), SampleGrid(loggers), *drawn, *later, *hooks]
        if train_loop(run, folder, Hooks(every)):
            run.log(f"done: {folder}")
        else:
            raise Stopped(folder, run.nimg, stopped_by_itself(run.stop))
    return folder


def dry_run(options: TrainOptions) -> None:
    """Check the options and print them with all defaults filled in and with an estimate; write nothing."""
    device = distributed.choose_device(options.device)
    flags = options.flags()
    import_plugins(flags["plugins"])
    resolved, _, _ = options_and_state(options, flags, writes=False)
    require_loggers(resolved)
    dataset, parts = check(resolved)
    whole = {**resolved, **parts.options}
    check_scoring(whole, dataset, parts.denoiser, device)
    distributed.print0(json.dumps(whole, indent=2))
    count = sum(parameter.numel() for parameter in parts.denoiser.parameters())
    for line in estimate(whole, device, count, parts.loss.copies) if distributed.world_size() == 1 else ():
        distributed.print0(line)
    height, width = dataset.resolution
    distributed.print0(f"dry run: {len(dataset)} images of {height}x{width}, {count:,} parameters; nothing written")


def options_and_state(options: TrainOptions, flags: dict, writes: bool = True) -> tuple[dict, Path | None, dict | None]:
    """Return the run's options and, with `resume`, its folder and state (None if `auto` finds no run)."""
    for name in ("resume", "transfer", "teacher"):
        if flags[name] == "":
            raise UserError(f"`{name}` is empty; give a file, or leave it out")
    if flags["resume"] and flags["transfer"] and flags["resume"] != "auto":
        raise UserError(
            "`resume` and `transfer` exclude each other: resume continues a run, transfer starts one; `resume`=auto "
            "does the one that is due"
        )
    for name in OF_STATE_DICTS:
        if flags[name] and not flags["transfer"]:
            raise UserError(f"`{name}`={flags[name]} is for a state dict to start from; give `transfer` as well")
    nested = options_from(flags) if flags["data"] else None
    earlier = folder_before_restart()
    if earlier is not None and writes:
        if not states_in(earlier):
            return nested or options_from(flags), earlier, None
        flags = {**flags, "resume": str(earlier), "transfer": None}
    elif started_again_without_memory() and nested is not None:
        flags = {**flags, "resume": flags["resume"] or "auto"}
    if flags["resume"]:
        if flags["resume"] == "auto" and nested is None:
            raise UserError("`resume`=auto needs the `data` and `outdir` of the run")
        description = describe(nested, distributed.world_size(), flags["desc"]) if nested else ""
        found = find_state(flags["resume"], flags["outdir"], description)
        if found is not None:
            folder, state = found
            known = nested or options_from({**flags, "data": ""})
            merged = merge_options(state, explicit(flags, set(options.given()), known))
            set_teacher(merged["loss"], merged["loss"]["name"], flags["teacher"])
            named = [name.rpartition(":")[0] for name in code_names(known)]
            require_named(merged, [*named, *flags["plugins"]])
            return merged, folder, state
    if nested is not None and flags["resume"]:
        set_teacher(nested["loss"], nested["loss"]["name"], flags["teacher"])
    if nested is None:
        raise UserError("`data` is missing; create a dataset with dataset_tool.py and give its path")
    if not flags["outdir"] and writes:
        raise UserError("`outdir` is missing; give a folder for runs, e.g. `outdir`=runs")
    return nested, None, None


def load_source(transfer: str | None, flags: dict, options: dict):
    """Load the snapshot whose weights the run starts from, if any."""
    if not transfer:
        return None
    named = (options[part]["name"] for part in ("network", "precond"))
    import_plugins(
        name.rpartition(":")[0] for name in named if ":" in name
    )  # so that the snapshot may use the same code
    return load_snapshot(transfer, adm={name: flags[name] for name in OF_STATE_DICTS if flags[name]} or None)


def loggers_of(options: dict) -> Sequence[dict]:
    """Return the components of all loggers: console and stats.jsonl on the main process, and those of the options."""
    if not distributed.is_main():
        return []
    return [{"name": "console"}, {"name": "jsonl"}, *options.get("loggers", [])]


def require_loggers(options: dict) -> None:
    """Raise UserError for unknown loggers, and for those whose package is not installed."""
    for one in options.get("loggers", []):
        require_package(find("logger", split(one, "logger")[0]))


def start(run: Run, folder: Path, state: dict | None) -> None:
    """Load the state if the run is resumed, and log a description of the run."""
    if state is not None:
        if distributed.is_main():
            remove_leftovers(folder)
        run.resume(state)
        run.log(f"resuming {folder} at {run.nimg / 1000:.1f} kimg")
    elif run.loss.tunes and run.transferred is None:
        run.log(f"note: {type(run.loss).__name__} tunes a diffusion model; --transfer=SNAPSHOT starts from its weights")
    if state is None and holds_a_run(folder):
        run.log(f"warning: {folder} contains an earlier run; its files are kept or overwritten")
    if run.transferred is not None:
        run.log(run.transferred)
    if run.loop.batch_gpu == AUTO:
        fit_batch(run)
    if distributed.is_main():
        write_options(folder, run.options)
    describe_run(run, folder)


def describe_run(run: Run, folder: Path) -> None:
    """Log data, network, batch and device of the run in a few lines."""
    data, loop, log = run.dataset, run.loop, run.log
    count = sum(parameter.numel() for parameter in run.denoiser.parameters())
    labels = f"{data.label_dim} classes" if data.label_dim else "no labels"
    log(f"folder    {folder}")
    height, width = data.resolution
    what = "stored latents" if data.kind == "latents" else data.kind
    log(f"data      {data.path}: {len(data)} {what}, {height}x{width}, {data.channels} channels, {labels}")
    if run.denoiser.spec.latent:
        channels, height, width = run.denoiser.spec.sample_shape
        log(f"latents   {height}x{width}, {channels} channels, of {json.dumps(run.options['encoder'])}")
        if run.options["augment"] is not None:
            log("warning: augmentation is applied to the latents, not to the images; --augment=0 is usual here")
    kinds = f"{type(run.denoiser).__name__}, {type(run.loss).__name__}"
    log(f"network   {run.options['network']['name']}, {count:,} parameters; {kinds}")
    processes = distributed.world_size()
    passes = f"{run.grad_accum_steps} passes x {run.micro_batch_size} images"
    log(f"batch     {loop.batch_size} = {processes} processes x {passes}")
    if run.shards:
        log(f"shards    weights, gradients, moments and averages in {run.shard_group} parts, one for each process")
    elif loop.shard:
        log("note: there is one process, which has nothing to share out; --shard is for several, under torchrun")
    threads = f", {torch.get_num_threads()} threads" if run.device.type == "cpu" else ""
    log(f"device    {run.device}{threads}, {loop.precision}; seed {loop.seed}; {loop.duration_mimg * 1000:g} kimg")
    for line in describe_saving(run):
        log(line)


def describe_saving(run: Run) -> Iterator[str]:
    """Yield how often the run saves, and a note if it ends within the warm-up of its learning rate."""
    loop, end = run.loop, run.loop.duration_mimg * 1000
    every = [(ticks or 0) * loop.tick_kimg for ticks in (loop.snapshot_ticks, loop.state_ticks)]
    snapshots, states = (f"every {kimg:g} kimg" if 0 < kimg < end else "at the end" for kimg in every)
    yield f"saving    snapshots {snapshots}, states {states} and on Ctrl-C; a kill loses what is newer, see --dump"
    warmup = getattr(run.lr_schedule, "warmup_kimg", 0)
    if warmup > end:
        yield (
            f"note: the learning rate rises over the first {warmup:g} kimg, but the run has {end:g}: it reaches "
            f"{100 * end / warmup:.2g} % of lr; to warm up faster: --set lr_schedule.warmup_kimg={end / 10:g}"
        )
