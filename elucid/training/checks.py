"""Checks of what a loss returns during training; every error message names the loss."""

from numbers import Integral

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Loss
from elucid.training.objective import Objective
from elucid.training.types import LossOutput, Step


def images_wanted(loss: Loss, step: Step) -> int:
    """Return the loss's `image_multiplier` for this step. Raises UserError unless it is an integer of at least 1."""
    multiplier = loss.image_multiplier(step)
    if not isinstance(multiplier, Integral) or multiplier < 1:
        name = type(loss).__name__
        raise UserError(f"loss {name}: image_multiplier returned {multiplier!r}; must be an integer >= 1")
    return multiplier


def phases_wanted(loss: Loss, step: Step) -> tuple[str, ...]:
    """Return the phases of this step. Raises UserError if there are none or one is missing from `all_phases`."""
    phases = tuple(loss.phases(step))
    unknown = [phase for phase in phases if phase not in loss.all_phases]
    if unknown or not phases:
        name, known = type(loss).__name__, ", ".join(loss.all_phases)
        raise UserError(f"loss {name}: phases returned {phases!r}; its all_phases are {known}")
    return phases


def require_finite_loss(out: LossOutput, objective: Objective) -> None:
    """Raise UserError if the loss contains NaN or infinity, naming the terms and the first bad parameter."""
    if out.loss.isfinite().all():
        return
    bad = [name for name, values in out.terms.items() if not values.isfinite().all()]
    terms = f" (terms: {', '.join(bad)})" if bad else ""
    raise UserError(
        f"loss {type(objective.loss).__name__} is not finite{terms}; {first_bad_parameter(objective)}; lower `lr`, or "
        "use `precision`=bf16 or fp32"
    )


def first_bad_parameter(objective: Objective) -> str:
    """Describe the first non-finite parameter, or else the first parameter with a non-finite gradient."""
    for name, parameter in objective.named_parameters():
        if not parameter.isfinite().all():
            return f"the first non-finite parameter is {name}"
    for name, parameter in objective.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"all parameters are finite, the first non-finite gradient is that of {name}"
    return "all parameters and gradients are finite"
