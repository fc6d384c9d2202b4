"""Prepares guidance: classifier-free, by a weaker snapshot, or by a snapshot of a classifier."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from elucid.dnnlib.errors import UserError
from elucid.torch_utils import distributed
from elucid.training.guidance.base import levels_of_times
from elucid.training.guidance.window import CoordinateWindow, windowed
from elucid.training.preconds.base import Denoiser
from elucid.training.registry.components import make, resolved
from elucid.training.sampling.choices import chosen_options
from elucid.training.sampling.options import SampleOptions
from elucid.training.snapshots.reconstruct import chosen_average
from elucid.training.snapshots.snapshot import Snapshot, load_snapshot
from elucid.training.types import MAPS


def load_classifier(options: SampleOptions, device: torch.device) -> Snapshot | None:
    """Load the snapshot of the classifier, if one is given. Raises UserError if it is not one."""
    if options.classifier is None:
        if options.classifier_scale is not None:
            raise UserError("`classifier_scale` has no effect without a classifier; set `classifier` to a snapshot")
        return None
    snapshot = load_snapshot(options.classifier, device, adm=chosen_options(options)["classifier"])
    if isinstance(snapshot.ema, Denoiser):
        raise UserError(
            f"`classifier`={options.classifier} contains a {type(snapshot.ema).__name__}, which generates images; give "
            "a snapshot trained with `precond`=classifier or ddpm_classifier"
        )
    snapshot.ema.precision = options.precision or snapshot.ema.precision
    return snapshot


def with_classifier(denoiser, classifier: Snapshot | None, names: Sequence[str] | None, options: SampleOptions):
    """Wrap the denoiser, with all its other guidance, in classifier guidance. Raises UserError if the two do not fit.

    `names` are the model's class names, if known.
    """
    if classifier is None:
        return denoiser
    scale = 1.0 if options.classifier_scale is None else options.classifier_scale
    component = {"name": "classifier", "scale": scale}
    if options.guidance_interval is not None:
        component["interval"] = options.guidance_interval
    guided = make(component, "guidance", denoiser=denoiser, classifier=classifier.ema)
    if denoiser.spec.label_dim:
        require_same_names(names, classifier.dataset.get("class_names"))
    return guided


def require_same_names(ours: Sequence[str] | None, theirs: Sequence[str] | None) -> None:
    """Raise UserError if both have class names and they differ."""
    for number, (one, other) in enumerate(zip(ours or (), theirs or (), strict=False)):
        if one != other:
            raise UserError(
                f"`classifier`: its class {number} is {other!r}, the model's is {one!r}; train it on the model's "
                "dataset, or choose another snapshot"
            )


def with_guidance(
    denoiser, chosen: dict[str, Any], options: SampleOptions, device: torch.device, trained: dict[str, Any]
):
    """Add guidance if `guidance` or `guidance.name` is set. Raises UserError for a guide that does not fit.

    `trained` are the options of the model's training. One that was told scales in it takes the scale as a condition.
    """
    scale, interval = options.guidance, options.guidance_interval
    if scale is None and not chosen:
        names = ("guide", "guide_std")
        for name in names if options.classifier is not None else ("guidance_interval", *names):
            if getattr(options, name) is not None:
                raise UserError(f"`{name}` has no effect without a scale; set `guidance`, e.g. `guidance`=1.5")
        return denoiser
    given = {name: value for name, value in (("scale", scale), ("interval", interval)) if value is not None}
    parts = {"denoiser": denoiser}
    if options.guide_std is not None and options.guide is None:
        raise UserError("`guide_std` is the length of the average of a `guide`; give both")
    if options.guide is not None:
        parts["guide"] = load_guide(denoiser, options, device)
    own = "distilled" if "guidance_scale" in denoiser.spec.vector else "cfg"
    component = {"name": own if options.guide is None else "autoguidance", **given, **chosen}
    dropped = dropped_in(trained)
    if component["name"] == "cfg" and "drop" not in component and dropped not in ([], ["labels"]):
        component["drop"] = dropped
    if component["name"] == "distilled":
        component.setdefault("trained", trained_scales(trained.get("loss")))
    return make(component, "guidance", **parts)


def dropped_in(trained: dict[str, Any]) -> list[str]:
    """Return the conditions that a training dropped, and which guidance can do without."""
    dropouts = {"labels": trained.get("dataset", {}).get("label_dropout")}
    dropouts[MAPS] = (trained.get("maps") or {}).get("dropout")
    return [name for name, dropout in dropouts.items() if dropout]


def trained_scales(loss: Any) -> list[float] | None:
    """Return the range of scales, the option `scales`, of a loss in a chain that tells the network any."""
    while isinstance(loss, dict):
        if loss.get("scales") is not None:
            return [float(end) for end in loss["scales"]]
        loss = loss.get("base")
    return None


def guidance_options(guided) -> dict[str, Any]:
    """Return the options of a guidance; some only if given, so that other samples keep their digest."""
    new = ("channels", "drop")
    return {name: value for name, value in resolved(guided).items() if name not in new or value is not None}


def in_levels(options: SampleOptions, denoiser) -> SampleOptions:
    """Return the options with an interval of times as one of noise levels. Raises UserError if both are given."""
    if options.guidance_interval_t is None:
        return options
    if options.guidance is None and options.classifier is None and not chosen_options(options)["guidance"]:
        raise UserError("`guidance_interval_t` has no effect without a scale; set `guidance`, e.g. `guidance`=1.5")
    if options.guidance_interval is not None:
        raise UserError("`guidance_interval` and `guidance_interval_t` exclude each other; leave one out")
    levels = levels_of_times(options.guidance_interval_t, denoiser)
    return replace(options, guidance_interval=levels, guidance_interval_t=None)


def load_guide(denoiser, options: SampleOptions, device: torch.device):
    """Load the weaker model for autoguidance, with the same coordinate window as the denoiser."""
    adm = chosen_options(options)["guide"]
    guide = chosen_average(options.guide, device, None, options.guide_std, "guide_std", adm).ema
    guide.precision = options.precision or guide.precision
    if not isinstance(denoiser, CoordinateWindow):
        return guide
    if "coords" not in guide.spec.spatial:
        raise UserError("`guide`: it was trained without coordinates, which the window needs; choose another snapshot")
    return windowed(guide, options.x_start, options.y_start, options.image_size)


def warn_of_labels_never_dropped(trained: dict[str, Any], options: SampleOptions) -> None:
    """Warn if classifier-free guidance is used with a network trained without label dropout, and not told a scale."""
    if trained_scales(trained.get("loss")) is not None:
        return
    dropouts = [trained.get(part, {}).get("label_dropout") for part in ("dataset", "network", "loss")]
    dropouts.append((trained.get("maps") or {}).get("dropout"))
    if options.guidance not in (None, 1) and options.guide is None and dropouts[0] is not None and not any(dropouts):
        text = "warning: guidance: the model was trained without label dropout, so it has no unconditional prediction"
        distributed.print0(text, file=sys.stderr)
