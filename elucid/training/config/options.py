"""Converts the flags of train.py to nested options."""

import re
import secrets
from pathlib import Path

from elucid.dnnlib.config import set_by_path
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.values import signature
from elucid.torch_utils import distributed
from elucid.training.config.loss_chains import LOSS_FLAGS, default_loss_of, default_of, loss_chain, sampling_of
from elucid.training.config.settings import parse_eval
from elucid.training.config.upgrade import look_up, moved, moved_assignment
from elucid.training.registry.components import find

FLAGS = {
    "data": "dataset.path",
    "cond": "dataset.use_labels",
    "xflip": "dataset.xflip",
    "cache": "dataset.cache",
    "prefetch": "dataset.prefetch",
    "workers": "dataset.workers",
    "label_dropout": "dataset.label_dropout",
    "train_on_latents": "encoder.name",
    "arch": "network.name",
    "cbase": "network.model_channels",
    "cres": "network.channel_mult",
    "dropout": "network.dropout",
    "implicit_mlp": "network.implicit_mlp",
    "precond": "precond.name",
    "beta_schedule": "precond.beta_schedule",
    "diffusion_steps": "precond.diffusion_steps",
    "optimizer": "optimizer.name",
    "lr": "optimizer.lr",
    "lr_schedule": "lr_schedule.name",
    "clip": "loop.max_grad_norm",
    "ema": "ema.halflife_mimg",
    "augment": "augment.p",
    "lowres": "lowres.factor",
    "lowres_noise": "lowres.noise",
    "cond_images": "dataset.cond_images",
    "cond_enlarge": "dataset.cond_enlarge",
    "cond_dropout": "maps.dropout",
    "duration": "loop.duration_mimg",
    "batch": "loop.batch_size",
    "batch_gpu": "loop.batch_gpu",
    "precision": "loop.precision",
    "ls": "loop.loss_scale",
    "bench": "loop.bench",
    "deterministic": "loop.deterministic",
    "compile": "loop.compile",
    "shard": "loop.shard",
    "checkpointing": "loop.checkpointing",
    "tick": "loop.tick_kimg",
    "snap": "loop.snapshot_ticks",
    "dump": "loop.state_ticks",
    "keep_snapshots": "loop.keep_snapshots",
    "keep_states": "loop.keep_states",
    "milestones": "loop.milestone_kimg",
    "on_full_disk": "loop.on_full_disk",
    "max_bad_steps": "loop.max_bad_steps",
    "seed": "loop.seed",
}
"""The option that each flag sets."""

FLAGS_THAT_CHOOSE_LOSS = {"precond", "loss", "patch", "real_p", "progressive", "learn_sigma"}
"""Flags that determine the chain of losses."""

PRECOND_ALIASES = {"cdm": ("edm", "cdm(edm)"), "pedm": ("edm", "patch(edm)")}
"""Values of --precond that stand for a preconditioner and a loss other than its default."""

OPTIONAL = {"augment", "lowres", "maps"}
"""Groups of options that may be None."""

LISTS = {"transforms", "hooks", "loggers"}
"""Options that are lists of components."""

CACHES = {"0": "none", "1": "disk"}

ENCODER_FOR_LATENTS_FLAG = {False: "rgb", True: "vae"}
"""The encoder for each value of --train_on_latents."""


def options_from(flags: dict) -> dict:
    """Convert `TrainOptions.flags()` to nested options. Raises UserError for contradicting flags."""
    precond, loss = PRECOND_ALIASES.get(flags["precond"], (flags["precond"], flags["loss"]))
    flags = {**flags, "loss": flags["loss"] or loss}
    seed = flags["seed"] if flags["seed"] is not None else distributed.broadcast_object(secrets.randbelow(1 << 31))
    precision = flags["precision"]
    if flags["fp16"]:
        if precision not in ("fp32", "fp16"):
            raise UserError(f"`fp16`=1 and `precision`={precision} contradict each other; use one of them")
        precision = "fp16"
    if flags["lowres_noise"] is not None and flags["lowres"] is None:
        raise UserError("`lowres_noise` is noise in the low-resolution images of `lowres`; give `lowres`=2, too")
    for name in ("cond_enlarge", "cond_dropout"):
        if flags[name] is not None and flags["cond_images"] is None:
            raise UserError(f"`{name}` is about the maps of `cond_images`; give both, or leave it out")
    require_process(flags, precond)
    values = {
        **flags,
        "precond": precond,
        "seed": seed,
        "precision": precision,
        "cache": CACHES.get(flags["cache"], flags["cache"]),
    }
    values["train_on_latents"] = ENCODER_FOR_LATENTS_FLAG[flags["train_on_latents"]]
    options: dict = {
        "dataset": {},
        "encoder": {},
        "augment": {"name": "edm"} if flags["augment"] else None,
        "transforms": [{"name": name} for name in flags["transforms"]],
        "lowres": None if flags["lowres"] is None else {"name": "lowres"},
        "maps": None if flags["cond_images"] is None else {"name": "maps"},
        "network": {},
        "precond": {},
        "loss": loss_chain(flags["loss"] or default_loss_of(precond, flags["learn_sigma"]), flags),
        "optimizer": {},
        "lr_schedule": {},
        "ema": {"name": "halflife"},
        "sampler": {"name": default_of(precond, "default_sampler", "edm")},
        "schedule": {"name": default_of(precond, "default_schedule", "karras")},
        "loop": {},
        "eval": parse_eval(flags["eval"]) if flags["eval"] else {},
        "hooks": hooks_of(flags),
        "loggers": [{"name": name} for name in flags["loggers"]],
    }
    for flag, path in FLAGS.items():
        part, name = path.split(".")
        if values[flag] is not None and options[part] is not None:
            options[part][name] = values[flag]
    own = sampling_of(options["loss"])
    for part, component in own.items():
        options[part]["name"] = component["name"]
    for assignment in flags["set"]:
        set_by_path(options, moved_assignment(assignment, options))
    for part, component in sampling_of(options["loss"]).items():  # with what was set of the loss
        if isinstance(options[part], dict) and options[part].get("name") == component["name"]:
            options[part] = {**component, **options[part]}
    for part, value in options.items():
        if part in LISTS and not isinstance(value, list):
            raise UserError(
                f'`set` {part}={value!r}: {part} is a list of components, e.g. [{{"name": "mine.py:Name"}}]'
            )
        if part not in LISTS and not isinstance(value, dict) and not (part in OPTIONAL and value is None):
            raise UserError(f"`set` {part}={value!r}: {part} is a group of options; set {part}.option=value")
    return options


def hooks_of(flags: dict) -> list[dict]:
    """Return the hooks of `hooks` and of the flags that stand for one."""
    data, maps = flags["heldout"], flags["heldout_cond_images"]
    if maps and not data:
        raise UserError("`heldout_cond_images` are the maps of the images of `heldout`; give both, or leave it out")
    held_out = [{"name": "heldout", "data": data, **({"cond_images": maps} if maps else {})}] if data else []
    return [*({"name": name} for name in flags["hooks"]), *held_out]


def require_process(flags: dict, precond: str) -> None:
    """Raise UserError for options of a discrete process that the preconditioner does not have."""
    known = signature(find("preconditioner", precond)).parameters
    for name in ("beta_schedule", "diffusion_steps"):
        if flags[name] is not None and name not in known:
            raise UserError(f"`{name}`={flags[name]}: `precond`={precond} has no discrete process; use `precond`=ddpm")


def precond_and_loss(options: dict) -> str:
    """Return the --precond value that stands for both, or the names of the preconditioner and its losses."""
    precond, names, chain = options["precond"]["name"], [], options["loss"]
    while isinstance(chain, dict):
        names.append(str(chain.get("name")))
        chain = chain.get("base")
    loss = "(".join(names) + ")" * (len(names) - 1)
    default = find("preconditioner", precond).default_loss
    short = {pair: alias for alias, pair in PRECOND_ALIASES.items()} | {(precond, default): precond}
    return short.get((precond, loss)) or "-".join([precond, *names])


def describe(options: dict, world_size: int, desc: str | None) -> str:
    """Return `{dataset}-{cond|uncond}-{arch}-{precond}-gpus{G}-batch{B}-{precision}[-desc]`, safe as a folder name."""
    parts = [
        Path(options["dataset"]["path"]).stem,
        "cond" if options["dataset"]["use_labels"] else "uncond",
        options["network"]["name"],
        precond_and_loss(options),
        f"gpus{world_size}",
        f"batch{options['loop']['batch_size']}",
        options["loop"]["precision"],
        *([desc] if desc else []),
    ]
    return re.sub(r"[^\w.+-]+", "_", "-".join(parts))


def explicit(flags: dict, given: set[str], options: dict) -> dict[str, object]:
    """Return the options set explicitly on the command line (flags in `given` and --set), by dotted path."""
    result: dict[str, object] = {}
    given = (
        given
        | ({"precision"} if "fp16" in given else set())
        | ({"hooks"} if given & {"heldout", "heldout_cond_images"} else set())
    )
    for flag, path in FLAGS.items():
        part, name = path.split(".")
        if flag in given and options[part] is None:
            result[part] = None
        elif flag in given and name in options[part]:
            result[path] = options[part][name]
    path, component, own = "loss", options["loss"], (*LOSS_FLAGS, "learn_sigma", "teacher")
    while isinstance(component, dict):
        if given & FLAGS_THAT_CHOOSE_LOSS:
            result[f"{path}.name"] = component.get("name")
        result.update({f"{path}.{flag}": flags[flag] for flag in own if flag in given and flag in component})
        path, component = f"{path}.base", component.get("base")
    if "eval" in given:
        result |= {f"eval.{name}": options["eval"][name] for name in parse_eval(str(flags["eval"]))}
    for part in LISTS & given:
        result[part] = options[part]
    for assignment in flags["set"]:
        place = moved(assignment.partition("=")[0], options)
        result[place] = look_up(options, place)
    return result
