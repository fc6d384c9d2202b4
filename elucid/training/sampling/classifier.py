"""Prepares classifier guidance from a snapshot of a classifier."""

from collections.abc import Sequence

import torch

from elucid.dnnlib.errors import UserError
from elucid.training.preconds.base import Denoiser
from elucid.training.registry.components import make
from elucid.training.sampling.choices import chosen_options
from elucid.training.sampling.options import SampleOptions
from elucid.training.snapshots.snapshot import Snapshot, load_snapshot


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
