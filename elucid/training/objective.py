"""What the loop differentiates: the denoiser and the loss as one module."""

from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Loss
from elucid.training.preconds.base import Denoiser
from elucid.training.types import Batch, LossOutput, Step


class Objective(nn.Module):
    """objective(batch, step) -> LossOutput; DistributedDataParallel wraps this, not the network.

    So a loss may call the denoiser any number of times in one forward, read its attributes and own parameters.
    """

    def __init__(self, denoiser: Denoiser, loss: Loss):
        super().__init__()
        self.denoiser, self.loss = denoiser, loss

    def forward(self, batch: Batch, step: Step) -> LossOutput:
        out = self.loss(self.denoiser, batch, step)
        require_output(out, len(batch), type(self.loss).__name__)
        own = [parameter.sum() for parameter in self.loss.parameters() if parameter.requires_grad]
        if own:  # a loss may use a parameter in some steps only; DistributedDataParallel waits for all of them
            out.loss = out.loss + 0 * sum(own)
        return out


def require_output(out: LossOutput, batch_size: int, name: str) -> None:
    """Raise UserError unless `out` is what a loss returns: one differentiable number per image."""
    if not isinstance(out, LossOutput):
        raise UserError(f"loss {name} returned {type(out).__name__}; return elucid.training.types.LossOutput(loss[B])")
    if "loss" in out.terms:
        raise UserError(f"loss {name} calls a term 'loss', as the logs call the whole; give it another name")
    for what, value in {"loss": out.loss, **out.terms}.items():
        if not isinstance(value, Tensor):
            raise UserError(f"loss {name} returned {what!r} as {type(value).__name__}; a tensor [B] is wanted")
    if out.loss.shape != (batch_size,):
        shape = tuple(out.loss.shape)
        raise UserError(f"loss {name} returned shape {shape}; one number per image is wanted: sum over C, H and W")
    if not out.loss.requires_grad:
        raise UserError(f"loss {name} has no gradient; compute it from the denoiser's prediction, without no_grad")


def require_finite_loss(out: LossOutput, objective: Objective) -> None:
    """Raise UserError when a batch's loss is NaN or infinite, naming the term and the first bad parameter."""
    if out.loss.isfinite().all():
        return
    bad = [name for name, values in out.terms.items() if not values.isfinite().all()]
    terms = f" (terms: {', '.join(bad)})" if bad else ""
    raise UserError(
        f"loss {type(objective.loss).__name__} is not finite{terms}; {first_bad_parameter(objective)}; lower --lr, or "
        "use --precision=bf16 or fp32"
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
