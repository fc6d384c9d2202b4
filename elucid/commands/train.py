"""Train a diffusion model: `train.py --outdir=runs --data=images.zip --cond=1`."""

import signal
import sys
from dataclasses import fields

import click
from click.core import ParameterSource

from elucid.commands.command import Command
from elucid.commands.flags.training import NO_EFFECT, training_flags
from elucid.commands.processes import processes
from elucid.dnnlib import cli
from elucid.dnnlib.errors import EXIT_STOPPED, Stopped
from elucid.training.config.train_options import TrainOptions


@click.command(
    cls=Command,
    examples=[
        "train.py --outdir=runs --data=images.zip --cond=1 --batch=64 --batch-gpu=16",
        "torchrun --standalone --nproc_per_node=8 train.py --outdir=runs --data=images.zip --preset=ffhq-64",
    ],
)
@training_flags
@click.pass_context
def main(ctx, **flags):
    """Train a diffusion model on a zip or folder of images, in one process or under torchrun."""
    given = {
        name: value for name, value in flags.items() if ctx.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    require_sensible(given)
    for name in ("SIGTERM", "SIGUSR1", "SIGHUP"):  # until training has handlers of its own
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN:
            signal.signal(getattr(signal, name), lambda *_: sys.exit(EXIT_STOPPED))
    from elucid.api import launch  # imported late: --help and usage errors need no torch
    from elucid.torch_utils import distributed
    from elucid.torch_utils.signals import StartStopped
    from elucid.torch_utils.torchrun.errors import end_torchrun, ignore_signals, tell_torchrun
    from elucid.training.stopping import time_left

    for name in sorted(NO_EFFECT & given.keys()):
        distributed.print0(f"note: --{name} is accepted for old commands and has no effect on training")
    options = TrainOptions(
        **{name: given[name] for name in {field.name for field in fields(TrainOptions)} & given.keys()}
    )
    if options.time_limit is not None:
        options.time_limit = time_left(options.time_limit)
    try:
        (launch.dry_run if flags["dry_run"] else launch.train)(options)
    except (Stopped, StartStopped) as stopped:
        if isinstance(stopped, StartStopped) and processes().another_failed():
            raise
        ignore_signals()  # torchrun ends the others when the first has ended
        if isinstance(stopped, Stopped):
            distributed.barrier()
            if stopped.by_itself:
                end_torchrun()
        tell_torchrun(f"{stopped}; exit code {EXIT_STOPPED}")
        return EXIT_STOPPED
    finally:
        distributed.shutdown()


def require_sensible(given: dict) -> None:
    """Reject values that are most likely a mistake; the message says how to use them anyway."""
    mimg = given.get("duration", 0)
    if mimg > 50_000:
        raise click.UsageError(
            f"--duration={mimg:g} is {mimg * 1e6:.0e} images, as the unit is a million; "
            f"--duration={mimg / 1e6:g} would be {mimg:g} images. To insist: --set loop.duration_mimg={mimg:g}"
        )
    if given.get("batch", 0) > 1_000_000:
        raise click.UsageError(
            f"--batch={given['batch']} images in one step; to insist: --set loop.batch_size={given['batch']}"
        )
    if given.get("lr", 0) >= 10:
        raise click.UsageError(
            f"--lr={given['lr']:g} will diverge; 1e-4 to 1e-2 are usual. To insist: --set optimizer.lr={given['lr']:g}"
        )
    for name in ("ema", "tick"):
        values = given.get(name, ())
        largest, unit = (
            max(values if isinstance(values, list) else [values or 0], default=0),
            {"ema": 1e6, "tick": 1e3}[name],
        )
        if largest * unit > 1e10:
            option = {"ema": "ema.halflife_mimg", "tick": "loop.tick_kimg"}[name]
            raise click.UsageError(
                f"--{name}={largest:g} is {largest * unit:.0e} images; to insist: --set {option}={largest:g}"
            )


def run() -> None:
    """Run the command line and exit."""
    cli.run(main, peers=processes())
