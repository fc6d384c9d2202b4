"""The training objective: denoiser and loss in one module."""

from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Loss, LossWrapper, with_total
from elucid.training.preconds.base import Preconditioned
from elucid.training.types import Batch, LossOutput, Step


class Objective(nn.Module):
    """objective(batch, step) -> LossOutput; DistributedDataParallel wraps this module, not the network.

    A loss may therefore call the denoiser several times per forward pass, read its attributes and own parameters.
    """

    def __init__(self, denoiser: Preconditioned, loss: Loss):
        super().__init__()
        self.denoiser, self.loss = denoiser, loss

    @property
    def uses_all_parameters(self) -> bool:
        """Whether the loss depends on every parameter in every step, as all classes say of themselves that are in it.

        `uses_all_parameters` holds for the class that has it, and not for those derived from it.
        """
        losses = [self.loss]
        while isinstance(losses[-1], LossWrapper):
            losses.append(losses[-1].base)
        parts = [self.denoiser, self.denoiser.model, *losses]
        return all(vars(type(one)).get("uses_all_parameters", False) for one in parts)

    def forward(self, batch: Batch, step: Step) -> LossOutput:
        out = self.loss(self.denoiser, batch, step)
        require_output(out, len(batch), type(self.loss).__name__)
        out = with_total(out, self.denoiser, batch.images, step)
        # Only the loss carries gradients: with several processes, DDP would wait for the gradients of parameters that
        # only a term depends on.
        return LossOutput(out.loss, {name: term.detach() for name, term in out.terms.items()})


def require_output(out: LossOutput, batch_size: int, name: str) -> None:
    """Raise UserError unless `out` is a valid LossOutput with one differentiable value per image."""
    if not isinstance(out, LossOutput):
        raise UserError(f"loss {name} returned {type(out).__name__}; return elucid.training.types.LossOutput(loss[B])")
    for what, value in [("loss", out.loss), *out.terms.items()]:
        if not isinstance(value, Tensor):
            raise UserError(f"loss {name} returned {what!r} as {type(value).__name__}; expected a tensor [B]")
    if out.loss.shape != (batch_size,):
        shape = tuple(out.loss.shape)
        raise UserError(f"loss {name} returned shape {shape}; expected one value per image: sum over C, H and W")
    if not out.loss.requires_grad:
        raise UserError(f"loss {name} has no gradient; compute it from the denoiser's prediction, without no_grad")
