"""Flags of the model that a subcommand evaluates."""

from collections.abc import Callable

import click

from elucid.commands.command import Name, section
from elucid.training.config.settings import PRECISIONS
from elucid.training.registry.adm_presets import PRESETS
from elucid.training.registry.public_transformers import MODELS


def model_flags(*more: Callable) -> Callable:
    """Return a decorator that adds --network, --ema, --precision, --plugins, flags of state dicts, and `more`."""
    return section(
        "Model",
        click.option(
            "--network",
            "--net",
            "network",
            metavar="PKL|DIR|URL",
            required=True,
            help="Snapshot, run folder (its newest), or checkpoint.",
        ),
        click.option("--ema", metavar="NAME", help="EMA of the snapshot to use.  [default: the first]"),
        click.option(
            "--adm_preset", type=Name("preset", PRESETS), help="Options of a state dict.  [default: by its shapes]"
        ),
        click.option(
            "--model",
            "--checkpoint_model",
            "checkpoint_model",
            type=Name("model", MODELS),
            help="Name of a public transformer, e.g. SiT-XL/2.  [default: by its shapes]",
        ),
        click.option("--precision", type=click.Choice(PRECISIONS), help="Precision.  [default: as trained]"),
        click.option("--plugins", metavar="LIST", help="Your modules or files that the snapshot may use."),
        *more,
    )
