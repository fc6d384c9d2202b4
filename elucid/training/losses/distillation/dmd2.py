"""Improved distribution matching distillation (Yin et al. 2024, arXiv 2405.14867): DMD2."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet

import torch
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Copies, Load, Loss, require_denoiser, with_levels
from elucid.training.losses.distillation import discriminator
from elucid.training.losses.distillation.discriminator import Diffusion, logits
from elucid.training.losses.distillation.teacher import copy_of_teacher, open_teacher, require_path
from elucid.training.networks.resolutions import BOTTLENECK
from elucid.training.preconds.base import Denoiser, Preconditioned
from elucid.training.types import Batch, Cond, LossOutput, NetSpec, Step

NORMALISATIONS = {"dmd2": 0.0, "vsd": 1e-6}
"""What is added to mean|x - D_real|: nothing, or FastGen's number."""


class DMD2(Loss):
    """The generator x = D(l z; l) follows (D_fake - D_real) / mean|x - D_real| at x + sigma n (arXiv 2311.18828).

    Its loss 0.5 mean (x - stopgrad(x - that))^2 has this gradient; sigma is one of 1000 levels of EDM's schedule, of
    the share `first` to `last`. D_fake, a copy of the `teacher` D_real, learns to denoise what the generator makes,
    weight 1 / sigma^2 + 1 / sigma_data^2, `fake_updates` times a step, in a phase "fake" with the learning rate
    `fake_lr`, by default the run's. A classifier on its bottleneck tells noisy real from generated images
    (arXiv 2405.14867, sec. 4.3): weights `classifier_weight` in that phase, `gan_weight` for the generator; 0 for both
    leaves it out. With several `levels` one of them is drawn, and its input made by the generator itself from the first
    on (sec. 4.5). Generated images have the batch's conditions. Means over an image's elements. Logged: `matching`,
    `gan`, and of the other phase `fake_score` and `classifier`. Raises UserError for impossible numbers.
    """

    mean, predicts_images = True, False
    copies = Copies(opened=1, trained=1)
    all_phases = ("fake", "main")
    sampling = {"sampler": {"name": "consistency"}, "schedule": {"name": "chosen", "levels": [80.0]}}

    def __init__(
        self,
        levels: list[float] = (80.0,),
        fake_updates: int = 5,
        fake_lr: float | None = None,
        gan_weight: float = 3e-3,
        classifier_weight: float = 1e-2,
        width: int = 256,
        first: float = 0.02,
        last: float = 0.98,
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        normalisation: str = "dmd2",
        teacher: str | None = None,
    ):
        super().__init__()
        self.levels = [float(one) for one in levels]
        if not self.levels or min(self.levels) <= 0 or sorted(set(self.levels), reverse=True) != self.levels:
            raise UserError(f"loss.levels={list(levels)} must be noise levels above 0, the largest first")
        if fake_updates < 1 or width < 1 or (fake_lr is not None and not fake_lr > 0):
            raise UserError(f"loss.fake_updates={fake_updates}, loss.width={width}: need 1 or more, loss.fake_lr > 0")
        if gan_weight < 0 or classifier_weight < 0 or (gan_weight > 0) != (classifier_weight > 0):
            raise UserError(
                f"loss.gan_weight={gan_weight:g}, loss.classifier_weight={classifier_weight:g}: both must be above 0, "
                "or both 0 for no classifier"
            )
        if normalisation not in NORMALISATIONS:
            raise UserError(f"loss.normalisation={normalisation!r} is unknown; choose from {', '.join(NORMALISATIONS)}")
        self.fake_updates, self.fake_lr, self.width = fake_updates, fake_lr, width
        self.gan_weight, self.classifier_weight = gan_weight, classifier_weight
        self.diffusion = Diffusion(first, last, sigma_min, sigma_max)
        self.shown = Diffusion(0, 1, sigma_min, sigma_max)
        self.added, self.teacher_path = NORMALISATIONS[normalisation], teacher

    @classmethod
    def sampling_with(cls, options: dict) -> dict[str, dict]:
        return with_levels(cls.sampling, list(options.get("levels", cls.sampling["schedule"]["levels"])))

    def adapt(self, spec: NetSpec) -> NetSpec:
        return discriminator.with_bottleneck(spec) if self.gan_weight else spec

    def check(self, denoiser: Preconditioned) -> None:
        require_denoiser(self, denoiser)
        require_path(self, self.teacher_path)
        kind = type(denoiser).__name__
        if denoiser.levels is not None:
            raise UserError(f"dmd2 needs any noise level, {kind} has {len(denoiser.levels)} steps; use `precond`=edm")
        if denoiser.precision == "fp16":
            raise UserError("dmd2 diverges in fp16 as published, and steps several times a step; use `precision`=bf16")
        if denoiser.spec.logvar_features or set(denoiser.spec.features) - {BOTTLENECK}:
            raise UserError(
                "dmd2 makes images of noise, none of the batch's, so that uncertainty and alignment cannot wrap it; "
                "leave them out"
            )

    def setup(self, denoiser: Denoiser, load: Load) -> None:
        """Make the fake score, and the classifier's head."""
        self.teacher = open_teacher(self, load, self.teacher_path, denoiser)
        self.fake = copy_of_teacher(self.teacher, denoiser, self.teacher_path, "whose fake score is a copy of it")
        self.head: nn.Module | None = discriminator.make_head(denoiser, self.width) if self.gan_weight else None

    def phases(self, step: Step) -> tuple[str, ...]:
        return (*["fake"] * self.fake_updates, "main")

    def parameters_of(self, denoiser: Preconditioned, phase: str) -> Iterable[tuple[str, nn.Parameter]]:
        if phase == "main":
            return [(name, one) for name, one in denoiser.named_parameters("denoiser") if one.requires_grad]
        return [(name, one) for name, one in self.named_parameters("loss") if one.requires_grad]

    def optimizer_options(self, phase: str) -> dict:
        return {} if phase == "main" or self.fake_lr is None else {"lr": self.fake_lr}

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        self.fake.train(step.phase == "fake")
        if step.phase == "fake":
            with torch.no_grad():
                made = self.generate(denoiser, batch)
            return self.of_fake(batch, made, *self.diffusion.draw(made))
        made = self.generate(denoiser, batch)
        return self.of_generator(made, *self.diffusion.draw(made.detach()), batch.cond)

    def generate(self, denoiser: Denoiser, batch: Batch) -> Tensor:
        """Return the generator's images [B,C,H,W] at one of its levels, whose input it has made itself."""
        last = int(torch.randint(len(self.levels), ())) if len(self.levels) > 1 else 0
        x = torch.randn_like(batch.images) * self.levels[0]
        with torch.no_grad():
            for level, following in zip(self.levels[:last], self.levels[1 : last + 1], strict=True):
                x = denoiser(x, level, batch.cond).x0 + following * torch.randn_like(x)
        return denoiser(x, self.levels[last], batch.cond).x0

    def of_fake(self, batch: Batch, made: Tensor, x: Tensor, sigma: Tensor) -> LossOutput:
        """Return the fake score's loss for images that were made, noisy as x at these levels."""
        weight = (1 / sigma**2 + 1 / getattr(self.fake, "sigma_data", 0.5) ** 2).reshape(-1)
        score = weight * (self.fake(x, sigma, batch.cond).x0 - made).square().mean(dim=(1, 2, 3))
        if self.head is None:
            return LossOutput(score, {"fake_score": score})
        real = logits(self.fake, self.head, *self.shown.draw(batch.images), batch.cond)
        fake = logits(self.fake, self.head, *self.shown.draw(made), batch.cond)
        classifier = discriminator.discriminator_loss(real, fake)
        return LossOutput(score + self.classifier_weight * classifier, {"fake_score": score, "classifier": classifier})

    def of_generator(self, made: Tensor, x: Tensor, sigma: Tensor, cond: Cond) -> LossOutput:
        """Return the generator's loss for images that it made, noisy as x at these levels."""
        with torch.no_grad():
            wanted = made - self.direction(made, self.fake(x, sigma, cond).x0, self.teacher(x, sigma, cond).x0)
        loss = matching = 0.5 * (made - wanted).square().mean(dim=(1, 2, 3))
        if self.head is None:
            return LossOutput(loss, {"loss": loss, "matching": matching})
        gan = discriminator.generator_loss(logits(self.fake, self.head, *self.shown.draw(made), cond))
        loss = matching + self.gan_weight * gan
        return LossOutput(loss, {"loss": loss, "matching": matching, "gan": gan})

    def direction(self, made: Tensor, fake: Tensor, real: Tensor) -> Tensor:
        """Return (D_fake - D_real) / mean|x - D_real|, the mean over each image."""
        size = (made - real).abs().mean(dim=(1, 2, 3), keepdim=True) + self.added
        return (fake - real) / size.clamp_min(torch.finfo(size.dtype).tiny)

    def after_step(self, denoiser: Preconditioned, step: Step, stepped: AbstractSet[str]) -> None:
        if "fake" in stepped:
            self.fake.after_step(step)
