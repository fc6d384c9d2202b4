"""Base classes of losses. To add a loss, write a subclass of `Loss` in a file of your own."""

from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.preconds.base import Denoiser, Preconditioned
from elucid.training.types import Batch, LossOutput, NetSpec, Step

Load = Callable[[str], Callable]
"""Opens a snapshot by path or URL as a frozen denoiser, e.g. a teacher; it is not saved in states or averaged."""


class Copies(NamedTuple):
    """How many networks of the denoiser's size a loss has besides it, for the estimate of memory and disk space."""

    opened: int = 0
    """Teachers, which are in no state."""
    kept: int = 0
    """Frozen ones that states hold, e.g. an average."""
    trained: int = 0
    """Those with gradients, and moments of an optimizer."""


class Loss(nn.Module):
    """Maps a denoiser and a batch of clean images to one loss per image.

    A loss may call the denoiser any number of times. Its own parameters are trained together with the network.
    The keyword arguments of the constructor are the options of the loss. An argument annotated with a component type,
    e.g. `base: Loss`, `noise: NoiseDistribution` or `discriminator: nn.Module`, takes a component of that type.
    """

    uses_all_parameters = False
    """Whether every step needs all trainable parameters. A class that says so, for itself and not for classes derived
    from it, spares DistributedDataParallel a search of each step's graph."""

    may_be_negative: bool = False
    """Whether it may be below 0, so that no other loss may divide it by its size."""

    needs_pixels: bool = False
    """Whether it needs the clean pixels, also where the network works on latents (`Batch.raw`)."""

    forward_derivative: bool = False
    """Whether it differentiates the network forwards, which torch cannot if processes share out its weights."""

    sampling: dict[str, dict] = {}
    """Sampler and schedule, as components, that models trained with it are sampled by if none is chosen; empty for the
    preconditioner's."""

    tunes: bool = False
    """Whether it is meant to go on from a diffusion model's weights; a run without any gets a note."""

    batch_multiple: int = 1
    """The images of a pass are a multiple of this number, e.g. of a group that is compared."""

    predicts_images: bool = True
    """Whether its first call of the denoiser predicts the clean images of the batch, for losses that look at it."""

    copies: Copies = Copies()
    """What `setup` will open or make."""

    all_phases: tuple[str, ...] = ("main",)
    """All phases that `phases` may return; each has its own optimizer."""

    @classmethod
    def sampling_with(cls, options: dict) -> dict[str, dict]:
        """Return `sampling` for a loss with these options, of which some may be missing."""
        return cls.sampling

    def adapt(self, spec: NetSpec) -> NetSpec:
        """Add what this loss needs from the network: coordinates, a variance head, a second noise level, ..."""
        return spec

    def check(self, denoiser: Preconditioned) -> None:
        """Raise UserError if this loss cannot train this denoiser; called once when the run is built."""

    def setup(self, denoiser: Preconditioned, load: Load) -> None:
        """Create what depends on the initial weights, e.g. a target network; called once, on the training device.

        `load(path)` opens a teacher. Modules assigned to the loss are saved in training states; their parameters are
        trained if they require gradients.
        """

    def phases(self, step: Step) -> tuple[str, ...]:
        """Return the phases of this step in order; must be a pure function of the step."""
        return ("main",)

    def parameters_of(self, denoiser: Preconditioned, phase: str) -> Iterable[tuple[str, nn.Parameter]]:
        """Return the named parameters that a phase trains; by default all that require gradients."""
        named = [*denoiser.named_parameters("denoiser"), *self.named_parameters("loss")]
        return [(name, parameter) for name, parameter in named if parameter.requires_grad]

    def optimizer_options(self, phase: str) -> dict:
        """Return options that override the run's optimizer options in a phase, e.g. {"lr": 2e-4}."""
        return {}

    def image_multiplier(self, step: Step) -> int:
        """Return the factor on the batch size in this step, an integer >= 1; must be a pure function of the step."""
        return 1

    def forward(self, denoiser: Preconditioned, batch: Batch, step: Step) -> LossOutput:
        """Return the `loss` [B] of each image, summed over C, H and W, and the `terms` to log unchanged.

        `Loss/loss` of the log is the term named "loss". Without one it is `loss` per element (`per_element`), of a
        classifier per image.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward(denoiser, batch, step)")

    def after_step(self, denoiser: Preconditioned, step: Step, stepped: AbstractSet[str]) -> None:
        """Called after each step with the phases whose optimizers stepped; fp16 skips a phase if it overflows."""


class LossWrapper(Loss):
    """Base of losses that wrap another loss, `base`; everything that a subclass does not override is delegated."""

    def __init__(self, base: Loss):
        super().__init__()
        self.base = base

    @property
    def may_be_negative(self) -> bool:  # type: ignore[override]
        return self.base.may_be_negative

    @property
    def tunes(self) -> bool:  # type: ignore[override]
        return self.base.tunes

    @property
    def batch_multiple(self) -> int:  # type: ignore[override]
        return self.base.batch_multiple

    @property
    def predicts_images(self) -> bool:  # type: ignore[override]
        return self.base.predicts_images

    @property
    def needs_pixels(self) -> bool:  # type: ignore[override]
        return self.base.needs_pixels

    @property
    def forward_derivative(self) -> bool:  # type: ignore[override]
        return self.base.forward_derivative

    @property
    def copies(self) -> Copies:  # type: ignore[override]
        return self.base.copies

    @property
    def all_phases(self) -> tuple[str, ...]:  # type: ignore[override]  # delegated and read-only
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
        """Return the parameters that the base trains, plus the wrapper's own parameters in the main phase."""
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
    """Convert a loss [B], summed over each image of `images` [B,C,H,W], to the mean per element."""
    return loss / images[0].numel()


def with_total(out: LossOutput, denoiser: Preconditioned, images: Tensor, step: Step) -> LossOutput:
    """Add the term "loss" that is logged in the main phase if a loss has none: per element of the images it saw.

    The loss of a classifier is not a sum over elements; it is logged per image.
    """
    if step.phase != "main" or not isinstance(out, LossOutput) or "loss" in out.terms:
        return out
    total = per_element(out.loss, images) if isinstance(denoiser, Denoiser) else out.loss
    return LossOutput(out.loss, {"loss": total, **out.terms})


def require_denoiser(loss: Loss, denoiser: Preconditioned) -> None:
    """Raise UserError if the preconditioner is not a denoiser."""
    if not isinstance(denoiser, Denoiser):
        kind = type(denoiser).__name__
        raise UserError(f"loss {type(loss).__name__} trains denoisers, {kind} is not one; choose another `precond`")


def require_no_forward_derivative(loss: Loss) -> None:
    """Raise UserError if the loss cannot train a network whose weights processes share out."""
    if loss.forward_derivative:
        raise UserError("`shard` and loss.derivative=forward exclude each other; use loss.derivative=difference")


def name_of(loss: Loss) -> str:
    """Return the name that a loss was chosen by."""
    made: dict | None = vars(loss).get("config")  # by `registry.components.make`
    return type(loss).__name__ if made is None else str(made["name"])


def with_levels(sampling: dict[str, dict], levels: list[float]) -> dict[str, dict]:
    """Return a `Loss.sampling` at other chosen levels."""
    return {**sampling, "schedule": {**sampling["schedule"], "levels": levels}}


def takes_mean(loss: Loss) -> bool:
    """Return whether a loss is the mean over an image's elements instead of their sum, by its base's option `mean`."""
    while isinstance(loss, LossWrapper):
        loss = loss.base
    return getattr(loss, "mean", False) is True


def elements(loss: Loss, batch: Batch) -> int:
    """Return the number of elements of an image, over which a loss sums; 1 if it takes their mean."""
    return 1 if takes_mean(loss) else batch.images[0].numel()
