"""What the loop differentiates: the denoiser and the loss as one module."""

from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Loss
from elucid.training.preconds.base import Preconditioned
from elucid.training.types import Batch, LossOutput, Step


class Objective(nn.Module):
    """objective(batch, step) -> LossOutput; what is parallel wraps this, not the network.

    So a loss may call the denoiser any number of times in one forward, read its attributes and own parameters.
    """

    def __init__(self, denoiser: Preconditioned, loss: Loss):
        super().__init__()
        self.denoiser, self.loss = denoiser, loss

    def forward(self, batch: Batch, step: Step) -> LossOutput:
        out = self.loss(self.denoiser, batch, step)
        require_output(out, len(batch), type(self.loss).__name__)
        # Only the loss is differentiated: processes would wait for gradients of what a term alone depends on.
        return LossOutput(out.loss, {name: term.detach() for name, term in out.terms.items()})


def require_output(out: LossOutput, batch_size: int, name: str) -> None:
    """Raise UserError unless `out` is what a loss returns: one differentiable number per image."""
    if not isinstance(out, LossOutput):
        raise UserError(f"loss {name} returned {type(out).__name__}; return elucid.training.types.LossOutput(loss[B])")
    for what, value in [("loss", out.loss), *out.terms.items()]:
        if not isinstance(value, Tensor):
            raise UserError(f"loss {name} returned {what!r} as {type(value).__name__}; a tensor [B] is wanted")
    if out.loss.shape != (batch_size,):
        shape = tuple(out.loss.shape)
        raise UserError(f"loss {name} returned shape {shape}; one number per image is wanted: sum over C, H and W")
    if not out.loss.requires_grad:
        raise UserError(f"loss {name} has no gradient; compute it from the denoiser's prediction, without no_grad")
