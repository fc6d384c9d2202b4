"""Names to objects: the chain dataset -> encoder -> augmentation -> loss -> network -> denoiser.

Each link may change what the network must take in and give out (`adapt`).
"""

import inspect
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from elucid.dnnlib.config import bind, construct, lookup
from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Loss
from elucid.training.preconds.base import Denoiser
from elucid.training.registry import names
from elucid.training.registry.interfaces import INTERFACES, PARTS, SPEC_ARGUMENTS
from elucid.training.types import NetSpec


@dataclass
class Parts:
    """What training is made of; `options` are the components with every default filled in."""

    encoder: object
    augment: object | None
    loss: Loss
    denoiser: Denoiser
    options: dict[str, dict | None]


def split(component: dict, kind: str) -> tuple[str, dict]:
    """Name and options of a component."""
    if not isinstance(component, dict) or not isinstance(component.get("name"), str):
        raise UserError(f'{kind} must look like {{"name": ..., option: value}}, not {component!r}')
    return component["name"], {key: value for key, value in component.items() if key != "name"}


def make(component: dict, table: dict[str, str], kind: str, **parts):
    """The object that a component describes, built through its table of names."""
    name, options = split(component, kind)
    return construct(lookup(table, name, kind, INTERFACES[kind]), options, f"{kind} {name}", **parts)


def resolved(component: dict, made) -> dict:
    """The component with every default filled in, and with what the object itself `found` out about its options."""
    return {"name": component["name"], **made.recipe["options"], **getattr(made, "found", {})}


def make_encoder(component: dict, device: torch.device | str | None = None):
    """The encoder of a snapshot or a run, e.g. {"name": "rgb"}, on the device; without one, no weights are loaded."""
    encoder = make(component, names.ENCODERS, "encoder")
    if device is not None and hasattr(encoder, "to"):
        encoder.to(device)
    return encoder


def make_network(component: dict, spec: NetSpec):
    """A network for the spec; options a name stands for are defaults that `component` may override."""
    name, options = split(component, "network")
    target = lookup(names.NETWORKS, name, "network", INTERFACES["network"])
    height, width = spec.resolution
    given = {
        "img_resolution": height if height == width else [height, width],
        "in_channels": spec.in_channels,
        "out_channels": spec.out_channels,
        "label_dim": spec.label_dim,
        "augment_dim": spec.augment_dim,
    }
    for option in SPEC_ARGUMENTS:
        if option in options and options[option] != given[option]:
            raise UserError(f"network.{option} follows from the data set ({given[option]}); do not set it")
    return construct(target, {**names.NETWORK_OPTIONS.get(name, {}), **options, **given}, f"network {name}")


def make_denoiser(
    network: dict, precond: dict, spec: NetSpec, precision: str = "fp32", weights: bool = True
) -> Denoiser:
    """A denoiser with new weights, or without any, to check options. The preconditioner may `adapt` the spec."""
    name, options = split(precond, "precond")
    target = lookup(names.PRECONDS, name, "preconditioner", INTERFACES["preconditioner"])
    if hasattr(target, "adapt"):
        spec = target.adapt(spec)
    # Before the network: a misspelt option of the preconditioner should not cost building 280 M parameters.
    bind(target, options, f"preconditioner {name}", PARTS)
    with nullcontext() if weights else torch.device("meta"):
        model = make_network(network, spec)
    return construct(target, {**options, "precision": precision}, f"preconditioner {name}", model=model, spec=spec)


def build(options: dict, dataset_spec: NetSpec, precision: str = "fp32", weights: bool = True) -> Parts:
    """Everything that trains, from the components in `options` and the data set's spec.

    Raises UserError for unknown names and options, and for a loss that refuses the denoiser.
    """
    encoder = make_encoder(options["encoder"], "cpu" if weights else None)
    augment = make(options["augment"], names.AUGMENTS, "augment") if options["augment"] else None
    loss = make_loss(options["loss"])
    spec = encoder.adapt(dataset_spec)
    if augment is not None:
        spec = augment.adapt(spec)
    spec = adapted(spec, loss)
    denoiser = make_denoiser(options["network"], options["precond"], spec, precision, weights)
    loss.check(denoiser)
    network = {
        key: value for key, value in resolved(options["network"], denoiser.model).items() if key not in SPEC_ARGUMENTS
    }
    precond = {key: value for key, value in resolved(options["precond"], denoiser).items() if key != "precision"}
    components = {
        "encoder": resolved(options["encoder"], encoder),
        "augment": resolved(options["augment"], augment) if augment is not None else None,
        "network": network,
        "precond": precond,
        "loss": resolved_loss(options["loss"], loss),
    }
    return Parts(encoder, augment, loss, denoiser, components)


def adapted(spec: NetSpec, loss: Loss) -> NetSpec:
    """What the loss asks of the network. Raises UserError if it asks for images of another kind than there are."""
    asked, name = loss.adapt(spec), type(loss).__name__
    if not isinstance(asked, NetSpec):
        raise UserError(f"loss {name}: adapt returned {type(asked).__name__}; return spec, or spec.replace(...)")
    for option in ("resolution", "image_channels", "label_dim", "augment_dim", "latent"):
        if getattr(asked, option) != getattr(spec, option):
            raise UserError(f"loss {name}: adapt changed {option}, which the data decide; leave it as it is")
    return asked


def make_loss(component: dict) -> Loss:
    """The loss that a component describes; a loss that wraps another one has it as its component `base`."""
    name, options = split(component, "loss")
    target = lookup(names.LOSSES, name, "loss", INTERFACES["loss"])
    parts = {}
    if "base" in inspect.signature(target).parameters:
        base = options.pop("base", None)
        if base is None:
            raise UserError(f"the loss {name} wraps another one; write for example --loss={name}(edm)")
        parts["base"] = make_loss(base)
    elif "base" in options:
        raise UserError(f"the loss {name} wraps no other; write --loss={name}")
    return construct(target, options, f"loss {name}", **parts)


def resolved_loss(component: dict, loss: Loss) -> dict:
    """The component of a chain of losses with every default filled in."""
    chain = resolved(component, loss)
    return {**chain, "base": resolved_loss(component["base"], loss.base)} if "base" in component else chain
