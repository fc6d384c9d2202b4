"""Checks of what a loss returns during training; every error message names the loss."""

from numbers import Integral

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.sharding.parts import part
from elucid.training.losses.base import Loss
from elucid.training.objective import Objective
from elucid.training.types import Step

FINITE = "all parameters and gradients are finite"


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


def first_bad_parameter(objective: Objective) -> str:
    """Describe the first parameter that is not finite, or else the first whose gradient is not, on this process."""
    for name, parameter in objective.named_parameters():
        if not part(parameter).isfinite().all():
            return f"the first non-finite parameter is {name}"
    for name, parameter in objective.named_parameters():
        if parameter.grad is not None and not part(parameter.grad).isfinite().all():
            return f"all parameters are finite, the first non-finite gradient is that of {name}"
    return FINITE
