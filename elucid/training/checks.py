"""What a loss must give, checked while training, each refusal in one line that names the loss."""

from numbers import Integral

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Loss
from elucid.training.objective import Objective
from elucid.training.types import LossOutput, Step


def images_wanted(loss: Loss, step: Step) -> int:
    """How many times the batch the loss wants in this step. Raises UserError if that is no number of times."""
    multiplier = loss.image_multiplier(step)
    if not isinstance(multiplier, Integral) or multiplier < 1:
        name = type(loss).__name__
        raise UserError(f"loss {name}: image_multiplier returned {multiplier!r}; a whole number from 1 on is wanted")
    return multiplier


def phases_wanted(loss: Loss, step: Step) -> tuple[str, ...]:
    """The phases of this step. Raises UserError for one that `all_phases` lacks."""
    phases = tuple(loss.phases(step))
    unknown = [phase for phase in phases if phase not in loss.all_phases]
    if unknown or not phases:
        name, known = type(loss).__name__, ", ".join(loss.all_phases)
        raise UserError(f"loss {name}: phases returned {phases!r}; its all_phases are {known}")
    return phases


def require_finite_loss(out: LossOutput, objective: Objective) -> None:
    """Raise UserError when a batch's loss is NaN or infinite, naming the term and the first bad parameter."""
    if out.loss.isfinite().all():
        return
    bad = [name for name, values in out.terms.items() if not values.isfinite().all()]
    terms = f" (terms: {', '.join(bad)})" if bad else ""
    raise UserError(
        f"loss {type(objective.loss).__name__} is not finite{terms}; {first_bad_parameter(objective)}; lower `lr`, or "
        "use `precision`=bf16 or fp32"
    )


def first_bad_parameter(objective: Objective) -> str:
    """The first parameter that is not finite itself, else the first whose gradient is not."""
    for name, parameter in objective.named_parameters():
        if not parameter.isfinite().all():
            return f"the first bad parameter is {name}"
    for name, parameter in objective.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"all parameters are finite, the first bad gradient is that of {name}"
    return "all parameters and gradients are finite"
