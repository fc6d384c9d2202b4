"""The chain of losses that flags of train.py describe, and what losses and preconditioners say of sampling."""

import os

from elucid.dnnlib.config import parse_chain
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.values import signature
from elucid.training.registry.components import find

LOSS_FLAGS = {
    "martingale_lambda": "cdm",
    "martingale_steps": "cdm",
    "real_p": "patch",
    "progressive": "patch",
}
"""Flags that set the option of the same name of a loss in the chain."""


def loss_chain(text: str, flags: dict) -> dict:
    """Convert a chain of losses such as `patch(cdm(edm))` and the flags of these losses to a component."""
    chain = parse_chain(text)
    wants_patch = flags["patch"] or flags["real_p"] is not None or flags["progressive"]
    if wants_patch and find_in_chain(chain, "patch") is None:
        chain = {"name": "patch", "base": chain}
    for flag, owner in LOSS_FLAGS.items():
        if flags[flag] is None:
            continue
        component = find_in_chain(chain, owner)
        if component is None:
            raise UserError(
                f"`{flag}` is an option of the loss {owner!r}, which `loss`={text} does not contain; "
                f"use `loss`={owner}({text})"
            )
        component[flag] = flags[flag]
    set_learned_variance(chain, text, flags["learn_sigma"])
    if not flags["resume"]:  # which has a loss of its own
        set_teacher(chain, text, flags["teacher"])
    return chain


def set_learned_variance(chain: dict, text: str, learn_sigma: bool | None) -> None:
    """Set the option of the innermost loss. Raises UserError if that loss contradicts `learn_sigma`."""
    while chain.get("base"):
        chain = chain["base"]
    name = chain["name"]
    if learn_sigma is not None and name in ("vlb", "kl"):
        chain["learn_sigma"] = learn_sigma
    elif learn_sigma and name != "hybrid":
        raise UserError(
            f"`learn_sigma`=1, but `loss`={text} trains no variance; use hybrid, vlb or kl, with `precond`=ddpm"
        )
    elif learn_sigma is False and name == "hybrid":
        raise UserError("`learn_sigma`=0, but the hybrid loss learns the variance; use `loss`=simple")


def set_teacher(chain: dict, text: str, teacher: str | None) -> None:
    """Set the option of the loss that learns from a teacher, as an absolute path. Raises UserError if none does."""
    if teacher is None:
        return
    teacher = teacher if "://" in teacher else os.path.abspath(teacher)
    component: dict | None = chain
    while isinstance(component, dict):
        if "teacher" in signature(find("loss", component["name"])).parameters:
            component["teacher"] = teacher
            return
        component = component.get("base")
    raise UserError(f"`teacher`: `loss`={text} learns from no teacher; choose one that does, or leave `teacher` out")


def find_in_chain(chain: dict | None, name: str) -> dict | None:
    """Return the component of that name in a chain of losses, or None."""
    while chain is not None and chain["name"] != name:
        chain = chain.get("base")
    return chain


def default_loss_of(precond: str, learn_sigma: bool | None = None) -> str:
    """Return the default loss of a preconditioner. Raises UserError if it has none."""
    loss = default_of(precond, "default_loss")
    if loss is None:
        raise UserError(f"`precond`={precond} has no default loss; choose a `loss`")
    return "hybrid" if learn_sigma and loss == "simple" else loss


def default_of(precond: str, attribute: str, otherwise: str | None = None) -> str | None:
    """Return a default that a preconditioner's class states, such as `default_sampler`."""
    return getattr(find("preconditioner", precond), attribute, otherwise)


def sampling_of(loss: dict | None) -> dict[str, dict]:
    """Return the sampler and schedule that the outermost loss of a chain which names any wants (`Loss.sampling`)."""
    while isinstance(loss, dict):
        target = find("loss", loss["name"])
        if isinstance(getattr(target, "sampling", None), dict) and target.sampling:
            return target.sampling_with(loss)
        loss = loss.get("base")
    return {}
