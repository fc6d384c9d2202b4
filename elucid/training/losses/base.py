"""What every loss is. A loss of your own is one new file with a subclass of `Loss`."""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet

from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.preconds.base import Denoiser, Preconditioned
from elucid.training.types import Batch, LossOutput, NetSpec, Step

Load = Callable[[str], Callable]
"""Opens a snapshot, by path or URL, as a frozen denoiser: a teacher, which is in no state and no average."""


class Loss(nn.Module):
    """Maps a denoiser and a batch of clean images to one loss per image.

    The denoiser may be called any number of times; a loss may own parameters, which are trained with the network's.
    Options are the keyword arguments of the constructor, with their defaults. One annotated with a kind of component,
    e.g. `base: Loss`, `noise: NoiseDistribution` or `discriminator: nn.Module`, takes a component of that kind.
    """

    all_phases: tuple[str, ...] = ("main",)
    """Every phase that `phases` may name; each has an optimizer of its own."""

    def adapt(self, spec: NetSpec) -> NetSpec:
        """What this loss needs of the network beyond `spec`: coordinates, a variance head, a second noise level, ..."""
        return spec

    def check(self, denoiser: Preconditioned) -> None:
        """Raise UserError when this denoiser cannot be trained with this loss; called once, when building."""

    def setup(self, denoiser: Preconditioned, load: Load) -> None:
        """Make what depends on the network's first weights, e.g. a target network; called once, on the device.

        `load(path)` opens a teacher. What is assigned as a module is kept in states; parameters that require gradients
        are trained.
        """

    def phases(self, step: Step) -> tuple[str, ...]:
        """Which phases this step consists of, in order; a pure function of the step."""
        return ("main",)

    def parameters_of(self, denoiser: Preconditioned, phase: str) -> Iterable[tuple[str, nn.Parameter]]:
        """The named parameters that a phase trains; by default all that require gradients."""
        named = [*denoiser.named_parameters("denoiser"), *self.named_parameters("loss")]
        return [(name, parameter) for name, parameter in named if parameter.requires_grad]

    def optimizer_options(self, phase: str) -> dict:
        """What the optimizer of a phase has other than the run's, e.g. {"lr": 2e-4}."""
        return {}

    def image_multiplier(self, step: Step) -> int:
        """How many times the usual number of images this step wants; a pure function of the step."""
        return 1

    def forward(self, denoiser: Preconditioned, batch: Batch, step: Step) -> LossOutput:
        """`loss` [B], each image's loss summed over C, H and W, and the `terms` that the logs show, as they are.

        A term "loss" stands for the whole in the logs, in a unit that is good to read (`per_element`).
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(denoiser, batch, step)")

    def after_step(self, denoiser: Preconditioned, step: Step, stepped: AbstractSet[str]) -> None:
        """Called after each step with the phases whose optimizers moved; fp16 leaves a step out where it overflows."""


class LossWrapper(Loss):
    """A loss around another one, `base`, to which everything is delegated that a subclass does not change."""

    def __init__(self, base: Loss):
        super().__init__()
        self.base = base

    @property
    def all_phases(self) -> tuple[str, ...]:  # type: ignore[override]  # delegated: nobody assigns it
        return self.base.all_phases

    def adapt(self, spec: NetSpec) -> NetSpec:
        return self.base.adapt(spec)

    def check(self, denoiser: Preconditioned) -> None:
        self.base.check(denoiser)

    def setup(self, denoiser: Preconditioned, load: Load) -> None:
        self.base.setup(denoiser, load)

    def phases(self, step: Step) -> tuple[str, ...]:
        return self.base.phases(step)

    def parameters_of(self, denoiser: Preconditioned, phase: str) -> Iterable[tuple[str, nn.Parameter]]:
        """What the base trains in this phase, and in the main one the wrapper's own parameters, too."""
        of_base = [
            (name.replace("loss.", "loss.base.", 1), one) for name, one in self.base.parameters_of(denoiser, phase)
        ]
        if phase != "main":
            return of_base
        theirs = {id(parameter) for parameter in self.base.parameters()}
        own = [(f"loss.{name}", one) for name, one in self.named_parameters() if id(one) not in theirs]
        return [*of_base, *((name, one) for name, one in own if one.requires_grad)]

    def optimizer_options(self, phase: str) -> dict:
        return self.base.optimizer_options(phase)

    def image_multiplier(self, step: Step) -> int:
        return self.base.image_multiplier(step)

    def forward(self, denoiser: Preconditioned, batch: Batch, step: Step) -> LossOutput:
        return self.base(denoiser, batch, step)

    def after_step(self, denoiser: Preconditioned, step: Step, stepped: AbstractSet[str]) -> None:
        self.base.after_step(denoiser, step, stepped)


def per_element(loss: Tensor, images: Tensor) -> Tensor:
    """A loss [B], summed over each of the images [B,C,H,W], as the mean over elements: comparable across sizes."""
    return loss / images[0].numel()


def require_denoiser(loss: Loss, denoiser: Preconditioned) -> None:
    """Raise UserError if what is to be trained predicts no images."""
    if not isinstance(denoiser, Denoiser):
        kind = type(denoiser).__name__
        raise UserError(f"loss {type(loss).__name__} trains denoisers, and {kind} is none; choose another `precond`")
