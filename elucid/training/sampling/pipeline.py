"""A snapshot made ready to sample, as the flags that generate.py and fid.py share say."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from elucid.dnnlib.config import set_by_path
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import fetch, sha256
from elucid.torch_utils import distributed
from elucid.torch_utils.precision import set_precision
from elucid.training.config.build import make_encoder
from elucid.training.config.upgrade import moved_assignment
from elucid.training.encoders.base import Encoder
from elucid.training.guidance.window import CoordinateWindow, windowed
from elucid.training.noise.schedules import Schedule
from elucid.training.preconds.base import Denoiser
from elucid.training.registry.components import make, resolved
from elucid.training.samplers.base import Sampler
from elucid.training.sampling.generate import Samples, check_class, generate
from elucid.training.snapshots.snapshot import Snapshot, check_component, load_snapshot
from elucid.training.snapshots.trust import trust
from elucid.training.types import NetSpec

SAMPLER_OPTIONS = {
    "S_churn": "sampler.S_churn",
    "S_min": "sampler.S_min",
    "S_max": "sampler.S_max",
    "S_noise": "sampler.S_noise",
    "solver": "sampler.solver",
    "schedule": "sampler.process",
    "scaling": "sampler.scaling",
    "disc": "schedule.name",
    "steps": "schedule.num_steps",
    "sigma_min": "schedule.sigma_min",
    "sigma_max": "schedule.sigma_max",
    "rho": "schedule.rho",
}
"""Which option each flag sets; a flag that is not given leaves the snapshot's own, or the default."""

SCHEDULE_OF_DISC = {"vp": "vp", "ve": "geometric", "iddpm": "iddpm", "edm": "karras"}
"""The discretizations of EDM's ablation, as schedules."""

ABLATION_FLAGS = ("solver", "disc", "schedule", "scaling")
WINDOW_FLAGS = ("x_start", "y_start", "image_size")


@dataclass
class Prepared:
    """A snapshot ready to sample; `description` is all that decides, with the seed, what an image looks like."""

    snapshot: Snapshot
    denoiser: torch.nn.Module
    encoder: Encoder
    sampler: Sampler
    schedule: Schedule
    device: torch.device
    class_idx: int | None
    description: dict[str, Any]

    def generate(self, seeds: Sequence[int], batch_size: int) -> Iterator[Samples]:
        """Images of the seeds in order, at most `batch_size` at a time."""
        options = {"device": self.device, "sampler": self.sampler, "schedule": self.schedule}
        return generate(self.denoiser, self.encoder, seeds, batch_size=batch_size, class_idx=self.class_idx, **options)


def prepare(network: str, flags: dict[str, Any], device: torch.device) -> Prepared:
    """Load a snapshot and do what the flags say. Raises UserError for options or a class that it does not have."""
    trust(filter(None, (flags["plugins"] or "").split(",")))
    chosen = chosen_options(flags)
    for kind in ("sampler", "schedule"):
        if "name" in chosen[kind]:
            make(chosen[kind], kind)  # a mistake is told before a large snapshot is read
    snapshot = load_snapshot(network, device, flags["ema"])
    denoiser = snapshot.ema
    if not isinstance(denoiser, Denoiser):
        raise UserError(f"{network} holds a {type(denoiser).__name__}, which makes no images; give a denoiser's")
    sampler, schedule = (own_or_chosen(kind, getattr(snapshot, kind), chosen) for kind in ("sampler", "schedule"))
    check_class(denoiser.spec.label_dim, flags["class_idx"])
    encoder = prepare_encoder(snapshot, chosen["encoder"], flags, device)
    denoiser.precision = flags["precision"] or denoiser.precision
    check_patch_flags(denoiser.spec, encoder.factor, flags)
    window = windowed(denoiser, *(flags[flag] for flag in WINDOW_FLAGS))
    guided = with_guidance(window, chosen["guidance"], flags, device)
    warn_of_labels_never_dropped(snapshot.options, flags)
    set_precision(denoiser.precision, bench=False)  # timing would choose other kernels, and other bits, in every run
    description = {
        "network": sha256(fetch(network)),
        "ema": flags["ema"] or next(iter(snapshot.emas)),
        "sampler": resolved(sampler),
        "schedule": resolved(schedule),
        "encoder": resolved(encoder),
        "class": flags["class_idx"],
        "window": None if window is denoiser else [*window.start, *window.spec.resolution],
        "precision": denoiser.precision,
        "device": device.type,
        "guidance": None if guided is window else resolved(guided),
        "guide": flags["guide"] and sha256(fetch(flags["guide"])),
    }
    return Prepared(snapshot, guided, encoder, sampler, schedule, device, flags["class_idx"], description)


def own_or_chosen(kind: str, own: dict[str, Any], chosen: dict[str, dict]) -> Any:
    """The snapshot's own sampler or schedule with the options that were given, or another one where that is named.

    With another sampler the schedule begins anew too, as its number of steps belongs to the sampler.
    """
    given = chosen[kind]
    if "name" in given:
        return make(given, kind)
    if kind == "schedule" and "name" in chosen["sampler"]:
        return make({"name": "karras", **given}, kind)
    check_component(kind, own)
    return make({**own, **given}, kind)


def check_patch_flags(spec: NetSpec, factor: int, flags: dict[str, Any]) -> None:
    """The flags of Patch Diffusion that ask for nothing here. Raises UserError where one asks for something else.

    `factor` is how many times larger decoded images are than what the network makes; either size will do.
    """
    side = flags["resolution"]
    if side is not None and (side, side) not in (spec.resolution, tuple(size * factor for size in spec.resolution)):
        height, width = spec.resolution
        raise UserError(f"--resolution={side}, but the model makes {width}x{height}; leave --resolution out")
    if flags["mask_pos"]:
        raise UserError("--mask_pos: a model that was trained with coordinates is always told them; leave it out")
    for flag in ("embed_fq", "mask_pos"):
        if flags[flag] is not None:
            distributed.print0(f"note: --{flag} is accepted for old commands and has no effect", file=sys.stderr)


def with_guidance(denoiser, chosen: dict[str, Any], flags: dict[str, Any], device: torch.device):
    """The denoiser, guided if --cfg or `guidance.name` say so. Raises UserError for a guide that does not fit."""
    scale, interval = flags["cfg"], flags["guidance_interval"]
    if scale is None and not chosen:
        for flag in ("guidance_interval", "guide"):
            if flags[flag] is not None:
                raise UserError(f"--{flag} does nothing without a scale; give --cfg, e.g. --cfg=1.5")
        return denoiser
    given = {name: value for name, value in (("scale", scale), ("interval", interval)) if value is not None}
    parts = {"denoiser": denoiser}
    if flags["guide"] is not None:
        parts["guide"] = load_guide(denoiser, flags, device)
    component = {"name": "cfg" if flags["guide"] is None else "autoguidance", **given, **chosen}
    return make(component, "guidance", **parts)


def load_guide(denoiser, flags: dict[str, Any], device: torch.device):
    """The weaker model of --guide, on the same window as the denoiser."""
    guide = load_snapshot(flags["guide"], device).ema
    guide.precision = flags["precision"] or guide.precision
    if not isinstance(denoiser, CoordinateWindow):
        return guide
    if "coords" not in guide.spec.spatial:
        raise UserError("--guide: it was trained without coordinates, so it draws no windows; choose another snapshot")
    return windowed(guide, *(flags[flag] for flag in WINDOW_FLAGS))


def warn_of_labels_never_dropped(options: dict[str, Any], flags: dict[str, Any]) -> None:
    """Say so if classifier-free guidance asks a network for what it was never trained to do."""
    dropouts = [options.get(part, {}).get("label_dropout") for part in ("dataset", "network")]
    if flags["cfg"] not in (None, 1) and flags["guide"] is None and dropouts[0] is not None and not any(dropouts):
        text = "warning: --cfg: the model was trained without --label_dropout, so it knows no images without a class"
        distributed.print0(text, file=sys.stderr)


def prepare_encoder(snapshot: Snapshot, changes: dict, flags: dict[str, Any], device: torch.device) -> Encoder:
    """The snapshot's encoder on the device, with what --set changes, e.g. where a VAE lies on this machine.

    Raises UserError if --on_latents contradicts the snapshot, or the encoder does not fit its network.
    """
    spec = snapshot.ema.spec
    if flags["on_latents"] not in (None, spec.latent):
        makes, value = ("latents", 1) if spec.latent else ("images", 0)
        raise UserError(f"--on_latents={1 - value}, but the snapshot's model makes {makes}; leave --on_latents out")
    if "name" in changes:
        raise UserError("--set encoder.name: the model was trained with the snapshot's own encoder; leave it out")
    encoder = make_encoder({**snapshot.encoder, **changes}, device)
    encoder.check(spec)
    return encoder


def chosen_options(flags: dict[str, Any]) -> dict[str, dict]:
    """What the command line says of sampler, schedule, encoder and guidance; a name where it names one."""
    options: dict[str, dict] = {"sampler": {}, "schedule": {}, "encoder": {}, "guidance": {}}
    if flags["sampler"] or any(flags[flag] is not None for flag in ABLATION_FLAGS):
        options["sampler"]["name"] = flags["sampler"] or "ablation"
    for flag, path in SAMPLER_OPTIONS.items():
        if flags[flag] is not None:
            part, _, option = path.partition(".")
            options[part][option] = SCHEDULE_OF_DISC[flags[flag]] if flag == "disc" else flags[flag]
    for assignment in flags["assignments"]:
        set_by_path(options, moved_assignment(assignment, options))
    return options
