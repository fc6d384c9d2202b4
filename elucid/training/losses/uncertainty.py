"""Learned weighting of noise levels by their uncertainty, around any loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Loss, LossWrapper, require_denoiser, takes_mean, with_total
from elucid.training.preconds.base import Denoiser, Preconditioned
from elucid.training.types import Batch, LossOutput, NetSpec, Prediction, Step


class UncertaintyLoss(LossWrapper):
    """L / exp(u(sigma)) + d u(sigma) for the loss L of an image, `base`, summed over d elements (arXiv 2312.02696).

    u is a head of the denoiser with `features` Fourier features, trained with it; at its optimum exp(u) is the mean
    loss per element at sigma, so that all levels count the same (Kendall et al. 2018). sigma is that of the first call
    of the denoiser in `base`, and d is 1 if that takes the mean. Logged: the base's terms as they are, `u`, and the sum
    that is minimised as `weighted`.
    """

    uses_all_parameters = True

    def __init__(self, base: Loss, features: int = 128):
        super().__init__(base)
        self.features = features

    def adapt(self, spec: NetSpec) -> NetSpec:
        return self.base.adapt(spec).replace(logvar_features=self.features)

    def check(self, denoiser: Preconditioned) -> None:
        require_denoiser(self, denoiser)
        if self.base.may_be_negative:
            raise UserError(
                "uncertainty divides a loss by its size, and this one may be negative; put it inside, as in "
                "`loss`=alignment(uncertainty(edm))"
            )
        self.base.check(denoiser)

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        with first_call(denoiser) as heard:
            out = with_total(self.base(denoiser, batch, step), denoiser, batch.images, step)
        if step.phase != "main" or not heard:
            return out
        prediction = heard[0].prediction
        u, count = prediction.logvar, 1 if takes_mean(self) else prediction.x0[0].numel()
        loss = out.loss / u.exp() + count * u
        return LossOutput(loss, {**out.terms, "u": u, "weighted": loss / count})


class Call(NamedTuple):
    """A call of a denoiser: the noise level that it was given, and what it predicted."""

    sigma: Tensor | float
    prediction: Prediction


@contextmanager
def first_call(denoiser: Denoiser) -> Iterator[list[Call]]:
    """Yield a list that receives the first call of the denoiser in this context."""
    heard: list[Call] = []

    def listen(module, inputs: tuple, named: dict, prediction: Prediction) -> None:
        if not heard:
            heard.append(Call(inputs[1] if len(inputs) > 1 else named["sigma"], prediction))

    handle = denoiser.register_forward_hook(listen, with_kwargs=True)
    try:
        yield heard
    finally:
        handle.remove()
