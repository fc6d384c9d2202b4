"""An adversarial term around any loss: what it predicts should look real to a discriminator of noisy images."""

import copy
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

import torch
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Copies, Load, Loss, LossWrapper, elements, name_of, require_denoiser, with_total
from elucid.training.losses.distillation import discriminator
from elucid.training.losses.distillation.discriminator import Diffusion, logits
from elucid.training.losses.patch import PatchLoss
from elucid.training.losses.uncertainty import first_call
from elucid.training.preconds.base import Denoiser, Preconditioned
from elucid.training.types import Batch, LossOutput, NetSpec, Step


class AdversarialLoss(LossWrapper):
    """base + weight * d * softplus(-f(D + sigma n)), D the first prediction of the denoiser in `base`.

    f is the logit of a discriminator, a copy of the denoiser as it is at first with a head of `width` channels on its
    bottleneck, as in DMD2 and SiDA (Yin et al. 2024, arXiv 2405.14867, sec. 4.3; Zhou et al. 2024, arXiv 2410.14919);
    it is trained in a phase "discriminator", with the learning rate `lr`, by default the run's, by softplus(-f(real)) +
    softplus(f(D)). `kind` "hinge" takes -f, and max(1 - f(real), 0) + max(1 + f(D), 0). sigma is one of 1000 levels of
    EDM's schedule, of the share `first` to `last`. d is the number of elements of an image, over which `base` sums (1
    if it takes the mean). Logged: the base's terms as they are, and `gan`. Raises UserError for impossible numbers.
    """

    may_be_negative = True

    def __init__(
        self,
        base: Loss,
        weight: float = 1e-2,
        kind: str = "non_saturating",
        lr: float | None = None,
        width: int = 256,
        first: float = 0.0,
        last: float = 1.0,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
    ):
        super().__init__(base)
        discriminator.require_kind(kind)
        if not weight > 0 or width < 1 or (lr is not None and not lr > 0):
            raise UserError(f"loss.weight={weight:g} and loss.lr must be above 0, loss.width={width} 1 or more")
        self.weight, self.kind, self.lr, self.width = weight, kind, lr, width
        self.diffusion = Diffusion(first, last, sigma_min, sigma_max)

    @property
    def all_phases(self) -> tuple[str, ...]:  # type: ignore[override]
        return ("discriminator", *self.base.all_phases)

    @property
    def copies(self) -> Copies:  # type: ignore[override]
        return self.base.copies._replace(trained=self.base.copies.trained + 1)

    def phases(self, step: Step) -> tuple[str, ...]:
        return ("discriminator", *self.base.phases(step))

    def adapt(self, spec: NetSpec) -> NetSpec:
        return discriminator.with_bottleneck(self.base.adapt(spec))

    def check(self, denoiser: Preconditioned) -> None:
        require_denoiser(self, denoiser)
        inner: Loss = self
        while isinstance(inner, LossWrapper):
            inner = inner.base
            if isinstance(inner, PatchLoss):
                raise UserError(
                    "adversarial cannot wrap patch, whose crops it does not see; write patch(adversarial(...))"
                )
            if isinstance(inner, AdversarialLoss):
                raise UserError("adversarial wraps a loss with a discriminator of its own; leave adversarial out")
        if not self.predicts_images:
            raise UserError(f"adversarial shows images, and {name_of(inner)} begins with none; leave adversarial out")
        self.base.check(denoiser)

    def setup(self, denoiser: Denoiser, load: Load) -> None:
        """Make the discriminator, without dropout."""
        self.base.setup(denoiser, load)
        self.discriminator = copy.deepcopy(denoiser).eval().requires_grad_(True)
        self.head = discriminator.make_head(denoiser, self.width)

    def parameters_of(self, denoiser: Preconditioned, phase: str) -> Iterable[tuple[str, nn.Parameter]]:
        parts = ("loss.discriminator.", "loss.head.")
        if phase == "discriminator":
            return [(name, one) for name, one in self.named_parameters("loss") if name.startswith(parts)]
        return [(name, one) for name, one in super().parameters_of(denoiser, phase) if not name.startswith(parts)]

    def optimizer_options(self, phase: str) -> dict:
        if phase != "discriminator":
            return self.base.optimizer_options(phase)
        return {} if self.lr is None else {"lr": self.lr}

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        if step.phase == "discriminator":
            with torch.no_grad():
                made, _ = self.predicted(denoiser, batch, step.replace(phase="main"))
            real, fake = (self.logit(images, batch) for images in (batch.images, made))
            return LossOutput(discriminator.discriminator_loss(real, fake, self.kind))
        if step.phase != "main":
            return self.base(denoiser, batch, step)
        made, out = self.predicted(denoiser, batch, step)
        term = discriminator.generator_loss(self.logit(made, batch), self.kind)
        return LossOutput(out.loss + self.weight * elements(self, batch) * term, {**out.terms, "gan": term})

    def predicted(self, denoiser: Denoiser, batch: Batch, step: Step) -> tuple[Tensor, LossOutput]:
        """Return the first prediction of the base, and its output."""
        with first_call(denoiser) as heard:
            out = with_total(self.base(denoiser, batch, step), denoiser, batch.images, step)
        if not heard or heard[0].prediction.x0.shape != batch.images.shape:
            base = type(self.base).__name__
            raise UserError(f"adversarial: {base} does not begin with one prediction for each image; wrap another loss")
        return heard[0].prediction.x0, out

    def logit(self, images: Tensor, batch: Batch) -> Tensor:
        return logits(self.discriminator, self.head, *self.diffusion.draw(images), batch.cond)

    def after_step(self, denoiser: Preconditioned, step: Step, stepped: AbstractSet[str]) -> None:
        self.base.after_step(denoiser, step, stepped)
        if "discriminator" in stepped:
            self.discriminator.after_step(step)
