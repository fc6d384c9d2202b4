"""What the loop differentiates: the denoiser and the loss as one module. Read next: `loop.py`."""

from torch import nn

from dnnlib.errors import UserError
from training.losses.base import Loss
from training.preconds import Denoiser
from training.types import Batch, LossOutput, Step


class Objective(nn.Module):
    """objective(batch, step) -> LossOutput; DistributedDataParallel wraps this, not the network.

    So a loss may call the denoiser any number of times in one forward, read its attributes and own parameters.
    """

    def __init__(self, denoiser: Denoiser, loss: Loss):
        super().__init__()
        self.denoiser, self.loss = denoiser, loss

    def forward(self, batch: Batch, step: Step) -> LossOutput:
        out = self.loss(self.denoiser, batch, step)
        name = type(self.loss).__name__
        if not isinstance(out, LossOutput):
            raise UserError(f"loss {name} returned {type(out).__name__}; return training.types.LossOutput(loss[B])")
        if out.loss.shape != (len(batch),):
            shape = tuple(out.loss.shape)
            raise UserError(f"loss {name} returned shape {shape}; one number per image is wanted: sum over C, H and W")
        if not out.loss.requires_grad:
            raise UserError(f"loss {name} has no gradient; compute it from the denoiser's prediction, without no_grad")
        return out


def require_finite_loss(out: LossOutput, loss: Loss) -> None:
    """Raise UserError when a batch's loss is NaN or infinite, naming the term."""
    if out.loss.isfinite().all():
        return
    bad = [name for name, values in out.terms.items() if not values.isfinite().all()]
    terms = f" (terms: {', '.join(bad)})" if bad else ""
    raise UserError(f"loss {type(loss).__name__} is not finite{terms}; lower --lr, or use --precision=bf16 or fp32")
