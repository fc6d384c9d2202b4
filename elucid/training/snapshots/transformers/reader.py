"""Reads public state dicts of DiT, SiT, JiT, REPA, LightningDiT and DDT; nothing in the files is run."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elucid.dnnlib.config import resolve
from elucid.dnnlib.errors import UserError, note
from elucid.training.networks.transformers.embeddings import sine_positions
from elucid.training.preconds.base import Preconditioned
from elucid.training.registry.names import PRECONDS
from elucid.training.registry.public_transformers import SAMPLING
from elucid.training.registry.transformer_options import CLASSES
from elucid.training.snapshots.records import assemble
from elucid.training.snapshots.transformers import families
from elucid.training.snapshots.transformers.files import require_weights
from elucid.training.snapshots.transformers.plan import Plan, planned

TABLES = re.compile(r"pos_embed|feat_rope\.freqs_(cos|sin)")
"""Fixed tables, which a network here makes itself."""
PROJECTORS, STATISTICS = "projectors.", "bn."
EPSILON = 1e-4
"""What REPA-E's normalisation adds to the variance of its latents."""
SD_CHANNELS = 4
"""Of the latents of Stable Diffusion, whose autoencoder is the default."""
CLOSE = 1e-2
"""How far a stored table of positions may be from the exact one, e.g. by half precision."""


def read_transformer(
    found: Mapping[str, dict[str, Tensor]], path: Path, options: Mapping[str, Any] | None = None, ema: str | None = None
) -> dict[str, Any]:
    """Return the fields of a `Snapshot` with one of the state dicts in a file, the first or that named by `ema`.

    `options` may have a `checkpoint_model` and options of the original program. Raises UserError for options that are
    missing or do not fit the weights, and for weights that make no network.
    """
    if ema is not None and ema not in found:
        raise UserError(f"no average {ema!r}; the file has {', '.join(found)}")
    name = ema or next(iter(found))
    weights = require_weights(found[name], path.stat().st_size)
    given = dict(options or {})
    model = given.pop("checkpoint_model", None)
    plan = planned({one: tuple(value.shape) for one, value in weights.items()}, path, model, families.tidy(given))
    denoiser = built(plan, weights)
    if len(found) > 1:
        note(f"{path.name} has the weights {', '.join(found)}; {name} is used, others by `ema`")
    note_unused(weights, plan, path.name)
    sampler, schedule = SAMPLING[plan.family]
    spec = plan.spec
    return {
        "emas": {name: denoiser},
        "encoder": families.encoder(plan.family, spec.image_channels, statistics(weights)),
        "dataset": {
            "name": path.stem,
            "resolution": list(spec.resolution),
            "channels": spec.image_channels,
            "label_dim": spec.label_dim,
            "class_names": None,
        },
        # Without a class for none, guidance warns as it does for a run without label dropout.
        "options": {} if plan.network["null_class"] else {"dataset": {"label_dropout": 0.0}},
        "sampler": dict(sampler),
        "schedule": families.schedule(schedule, plan.precond_options),
    }


def built(plan: Plan, weights: dict[str, Tensor]) -> Preconditioned:
    """Build the denoiser with these weights. Raises UserError if they do not fit."""
    state = {
        f"model.{name}": value
        for name, value in weights.items()
        if not name.startswith((PROJECTORS, STATISTICS)) and not TABLES.fullmatch(name)
    }
    network = CLASSES["sit" if plan.family == "repa" else plan.family]
    options = {**plan.precond_options, "precision": "fp32"}
    try:
        return assemble(resolve(network), plan.network, resolve(PRECONDS[plan.precond]), options, plan.spec, state)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise UserError(f"no network can be made of its weights ({type(error).__name__}: {error})") from error


def statistics(weights: Mapping[str, Tensor]) -> tuple[list[float], list[float]] | None:
    """Return mean and deviation of each channel of the latents, which REPA-E's files have."""
    mean, variance = (weights.get(f"{STATISTICS}running_{name}") for name in ("mean", "var"))
    if mean is None or variance is None:
        return None
    return mean.tolist(), (variance + EPSILON).sqrt().tolist()


def note_unused(weights: Mapping[str, Tensor], plan: Plan, name: str) -> None:
    """Note what of the file is not used: positions that are not the fixed table, projectors, a tuned autoencoder."""
    there, grid = weights.get("pos_embed"), plan.spec.resolution[0] // plan.network["patch"]
    if there is not None:
        wanted = sine_positions((grid, grid), there.shape[-1])[None].to(torch.float32)
        if wanted.shape != there.shape or not torch.allclose(there, wanted, atol=CLOSE):
            note(f"{name}: its pos_embed is not the table of sines that its program makes; the table is used")
    if any(one.startswith(PROJECTORS) for one in weights):
        note(f"{name}: its projectors, which only training uses, are left out")
    if plan.family == "lightningdit" and plan.spec.image_channels != SD_CHANNELS:
        note(f"{name}: its latents need encoder.model, encoder.mean and encoder.std, by `set`")
    if f"{STATISTICS}running_mean" in weights:
        note(f"{name}: its autoencoder was trained along; give a folder of it by `set` encoder.model=PATH")
