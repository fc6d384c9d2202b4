"""What happens when training diverges: steps that are left out, a return to the last good state, a warning."""

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.torch_utils import distributed
from elucid.torch_utils.compilation import uncompiled
from elucid.torch_utils.transfer import Later
from elucid.training.checks import FINITE, first_bad_parameter
from elucid.training.objective import Objective
from elucid.training.types import Batch, LossOutput, Step

TICKS, LEAST_TICKS, DEVIATIONS, FLOOR = 50, 8, 10.0, 0.02
"""A loss is far outside its history if it is above median + DEVIATIONS * max(1.4826 MAD, FLOOR |median|) of the last
TICKS ticks, of which there must be LEAST_TICKS. 1.4826 MAD is the standard deviation of a normal distribution."""


def summed(loss: Tensor) -> Tensor:
    """Return the sum of a loss [B], or NaN with gradients of NaN if any of it is not finite.

    The gradients carry it to all processes, which then leave out the step together, with no word between them.
    """
    return loss.sum() * torch.where(loss.detach().isfinite().all(), 1.0, torch.nan)


class Divergence:
    """Counts the steps in a row that were left out, as a loss or gradient was not finite, and watches the loss.

    What only the device knows of a step is read after the next one, so that the device does not run out of work.
    `returned` tells whether the run has gone back to its last good state, which it does once.
    """

    def __init__(self, most: int, log: Callable[[str], None]):
        self.most, self.log = most, log
        self.in_a_row, self.left_out, self.returned = 0, 0, False
        self.history: list[float] = []
        self.last: tuple[Batch, Step] | None = None
        self.bad: tuple[Batch, Step] | None = None
        self.unread: tuple[dict[str, bool | Later], tuple[Batch, Step] | None, Step] | None = None

    @property
    def too_many(self) -> bool:
        return self.in_a_row >= self.most

    def note(self, diverged: dict[str, bool | Tensor], step: Step) -> None:
        """Take note of the phases that have `diverged` in a step, and count them, or else those of the step before."""
        self.settle()
        late = {phase: Later(one) if isinstance(one, Tensor) else one for phase, one in diverged.items()}
        self.unread = late, self.last, step
        if not any(isinstance(one, Later) for one in late.values()):
            self.settle()

    def settle(self) -> None:
        """Count the last step if it is not counted yet, which waits for the device."""
        if self.unread is None:
            return
        (late, at, step), self.unread = self.unread, None
        found = {phase: one.read() if isinstance(one, Later) else one for phase, one in late.items()}
        phases = [phase for phase, bad in found.items() if bad]
        self.bad = at if phases else self.bad
        self.count(phases, step)

    def count(self, phases: list[str], step: Step) -> None:
        """Count a step whose `phases` were left out; all processes find the same, as they have the same gradients."""
        if not phases:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        self.left_out += 1
        if self.in_a_row == 1 or self.too_many:
            which = "" if phases == ["main"] else f" of {', '.join(phases)}"
            self.log(
                f"warning: loss or gradient{which} not finite in step {step.index}, at {step.nimg / 1000:.1f} kimg; "
                f"left out, {self.in_a_row} in a row"
            )

    def watch(self, loss: float | None, kimg: float) -> None:
        """Warn if the loss of a tick is far outside its history, by the rule above."""
        if loss is None or loss != loss:
            return
        if len(self.history) >= LEAST_TICKS:
            median = statistics.median(self.history)
            deviation = 1.4826 * statistics.median(abs(one - median) for one in self.history)
            if loss > median + DEVIATIONS * max(deviation, FLOOR * abs(median)):
                self.log(
                    f"warning: the loss of the tick at {kimg:.1f} kimg is {loss:.4g}, far above the median "
                    f"{median:.4g} of the last {len(self.history)} ticks; watch it, and lower `lr` if it stays"
                )
        self.history = [*self.history, loss][-TICKS:]

    def describe(self, objective: Objective) -> str:
        """Say where it comes from: step, module, parameter. All processes must call it together."""
        batch, step = self.bad
        found = [one for one in distributed.gather_objects(first_bad_module(objective, batch, step)) if one]
        if not found:  # of the parts of a sharded model, only one process may see it
            found = sorted(distributed.gather_objects(first_bad_parameter(objective)), key=lambda one: one == FINITE)
        return f"step {step.index}, at {step.nimg / 1000:.1f} kimg: {found[0]}"

    def state_dict(self) -> dict:
        self.settle()
        names = ("in_a_row", "left_out", "returned", "history")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict) -> None:
        self.unread = None
        for name, value in state.items():
            setattr(self, name, value)


def first_bad_module(objective: Objective, batch: Batch, step: Step) -> str:
    """Evaluate the loss again and name the first module whose output is not finite; "" if all are finite this time."""
    found: list[str] = []
    with uncompiled(), _outputs(objective, lambda name, finite: None if finite else found.append(name)):
        try:
            out = objective(batch, step)
        except UserError:
            return ""
    if found:
        return f"the first output that is not finite is that of {found[0] or 'the objective'}"
    return bad_terms(out, objective)


def bad_terms(out: LossOutput, objective: Objective) -> str:
    """Name a loss that is not finite and its terms; "" if it is finite."""
    if out.loss.isfinite().all():
        return ""
    bad = [name for name, values in out.terms.items() if not values.isfinite().all()]
    terms = f" (terms: {', '.join(bad)})" if bad else ""
    return f"loss {type(objective.loss).__name__} is not finite{terms}; {first_bad_parameter(objective)}"


@contextmanager
def _outputs(objective: nn.Module, see: Callable[[str, bool], None]) -> Iterator[None]:
    """Call `see(name, finite)` for the output of each module, innermost first, if it is a tensor."""

    def hook(name):
        def look(module, args, out):
            if isinstance(out, Tensor):
                see(name, bool(out.isfinite().all()))

        return look

    handles = [module.register_forward_hook(hook(name)) for name, module in objective.named_modules() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
