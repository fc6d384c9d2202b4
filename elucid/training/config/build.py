"""Builds the components from options, in the order dataset -> encoder -> transforms -> loss -> network -> denoiser.

Each component may change the network's spec (`adapt`).
"""

import inspect
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from elucid.dnnlib.config import bind, construct
from elucid.dnnlib.errors import UserError
from elucid.torch_utils.guards.budget import Budget, of_this_machine
from elucid.training.encoders.base import Encoder
from elucid.training.losses.base import Loss
from elucid.training.preconds.base import Denoiser, Preconditioned
from elucid.training.registry.components import find, make, merged, resolved, split
from elucid.training.registry.interfaces import PARTS, SPEC_ARGUMENTS
from elucid.training.registry.names import OPTIONS
from elucid.training.transforms.base import Transform
from elucid.training.transforms.coordinates import Coordinates
from elucid.training.transforms.encode import Encode
from elucid.training.transforms.flips import Mirror
from elucid.training.transforms.label_dropout import LabelDropout
from elucid.training.types import NetSpec


@dataclass
class Components:
    """The components of a training run; `options` describes them with all defaults filled in."""

    encoder: Encoder
    transforms: list[Transform]
    loss: Loss
    denoiser: Preconditioned
    options: dict


def make_encoder(component: dict, device: torch.device | str | None = None) -> Encoder:
    """Create an encoder, e.g. {"name": "rgb"}, on the device; with device None its weights are not loaded."""
    encoder = make(component, "encoder")
    return encoder if device is None else encoder.to(device)


def make_network(component: dict, spec: NetSpec):
    """Create a network for the spec; `component` may override the options that its name implies."""
    name, options = split(component, "network")
    target = find("network", name)
    given = spec_arguments(target, spec, name)
    for option in SPEC_ARGUMENTS:
        if option in options and options[option] != given.get(option):
            value = given.get(option, "not an option of this network")
            raise UserError(f"network.{option} is determined by the dataset ({value}); do not set it")
    options = merged(OPTIONS["network"].get(name, {}), options)
    network = construct(target, {**options, **given}, f"network {name}")
    network.config["name"] = name
    return network


def spec_arguments(target: type, spec: NetSpec, name: str) -> dict:
    """Return the constructor arguments that a network takes from the spec.

    Raises UserError if the spec has a condition that the network does not take, or asks for features that it lacks.
    """
    height, width = spec.resolution
    given = {
        "img_resolution": height if height == width else [height, width],
        "in_channels": spec.in_channels,
        "out_channels": spec.out_channels,
        "vector": dict(spec.vector),
        "label_dim": spec.vector.get("labels", 0),
        "augment_dim": spec.vector.get("augment", 0),
        "features": list(spec.features),
    }
    taken = inspect.signature(target).parameters
    known = {"labels": "label_dim", "augment": "augment_dim"}
    for condition in spec.vector:
        if "vector" not in taken and known.get(condition) not in taken:
            raise UserError(
                f"network {name} does not take the condition {condition!r}; add the argument vector, a dict of "
                "names and widths, to its constructor, or train without that condition"
            )
    if spec.features and "features" not in taken:
        raise UserError(
            f"the loss needs the inner layers {', '.join(spec.features)}, which the network {name} does not give; use "
            "another `arch`, or add the argument features to its constructor"
        )
    layers = getattr(target, "feature_layers", spec.features)
    if lacking := [one for one in spec.features if one not in layers]:
        raise UserError(
            f"the loss needs the inner layers {', '.join(lacking)}, which the network {name} does not give, only "
            f"{', '.join(layers)}; use that, or another `arch`"
        )
    return {argument: value for argument, value in given.items() if argument in taken}


def make_denoiser(
    network: dict, precond: dict, spec: NetSpec, precision: str = "fp32", weights: bool = True
) -> Preconditioned:
    """Create a denoiser with initial weights, or without any to only check the options.

    The preconditioner may `adapt` the spec.
    """
    name, options = split(precond, "precond")
    target = find("preconditioner", name)
    spec = target.adapt(spec)
    # Check the preconditioner's options before building a large network.
    bind(target, options, f"preconditioner {name}", PARTS)
    with of_this_machine() if weights else Budget(None, ""), nullcontext() if weights else torch.device("meta"):
        model = make_network(network, spec)
    denoiser = construct(target, {**options, "precision": precision}, f"preconditioner {name}", model=model, spec=spec)
    denoiser.config["name"] = name
    return denoiser


def build(
    options: dict, dataset_spec: NetSpec, precision: str = "fp32", weights: bool = True, skeleton: bool = False
) -> Components:
    """Build all trained components from `options` and the dataset's spec; a `skeleton`'s network has no weights.

    Raises UserError for unknown names and options, and if the loss rejects the denoiser.
    """
    encoder = make_encoder(options["encoder"], "cpu" if weights else None)
    augment = make(options["augment"], "transform", "augment") if options.get("augment") else None
    own = [make(component, "transform") for component in options.get("transforms") or []]
    lowres = make(options["lowres"], "transform", "lowres") if options.get("lowres") else None
    maps = make(options["maps"], "transform", "maps") if options.get("maps") else None
    loss = make(options["loss"], "loss")
    # Last, so that the low-resolution image is that of the image which the network learns to generate.
    others = [*([augment] if augment else []), *own, *([lowres] if lowres else [])]
    transforms = [Encode(encoder, loss.needs_pixels), *([maps] if maps else []), *others]
    spec = dataset_spec
    for transform in transforms:
        spec = transform.adapt(spec)
    spec = adapted(spec, loss)
    denoiser = make_denoiser(options["network"], options["precond"], spec, precision, weights and not skeleton)
    loss.check(denoiser)
    if loss.needs_pixels and spec.latent:
        require_pixels(dataset_spec, augment)
    data = options.get("dataset", {})
    first = [Mirror()] if data.get("xflip") else []
    dropout = [LabelDropout(data["label_dropout"])] if data.get("label_dropout") and dataset_spec.label_dim else []
    if dropout and not isinstance(denoiser, Denoiser):
        raise UserError(
            f"`label_dropout`={data['label_dropout']:g}: a classifier learns the labels, so none may be dropped; "
            "leave `label_dropout` out"
        )
    coordinates = [Coordinates()] if "coords" in spec.spatial else []
    # Augmentation transforms coordinates together with the image, so they are added before it.
    transforms = [*first, transforms[0], *dropout, *coordinates, *transforms[1:]]
    network = {key: value for key, value in resolved(denoiser.model).items() if key not in SPEC_ARGUMENTS}
    components = {
        "encoder": resolved(encoder),
        "augment": resolved(augment) if augment else None,
        "transforms": [resolved(one) for one in own],
        "lowres": resolved(lowres) if lowres else None,
        "maps": resolved(maps) if maps else None,
        "network": network,
        "precond": {key: value for key, value in resolved(denoiser).items() if key != "precision"},
        "loss": resolved(loss),
    }
    return Components(encoder, transforms, loss, denoiser, components)


def require_pixels(dataset_spec: NetSpec, augment: Transform | None) -> None:
    """Raise UserError if the pixels that latents are of are not there, or are others after augmentation."""
    if dataset_spec.latent:
        raise UserError(
            "the loss needs the pixels of images, and the dataset stores their latents; give the images themselves "
            "as `data`, which `train_on_latents`=1 encodes at each step"
        )
    if augment is not None and getattr(augment, "operations", True):
        raise UserError("the loss needs the pixels of latents, which augmentation moves apart; use `augment`=0")


def adapted(spec: NetSpec, loss: Loss) -> NetSpec:
    """Return the spec adapted by the loss. Raises UserError if it changes properties given by the dataset."""
    asked, name = loss.adapt(spec), type(loss).__name__
    if not isinstance(asked, NetSpec):
        raise UserError(f"loss {name}: adapt returned {type(asked).__name__}; return spec, or spec.replace(...)")
    changed = [
        option
        for option in ("resolution", "image_channels", "latent")
        if getattr(asked, option) != getattr(spec, option)
    ]
    for there, wanted in ((spec.vector, asked.vector), (spec.spatial, asked.spatial)):
        changed += [condition for condition, width in there.items() if wanted.get(condition) != width]
    if changed:
        raise UserError(f"loss {name}: adapt must not change {changed[0]}, which is determined by the dataset")
    return asked
