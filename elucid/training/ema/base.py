"""What every average of the weights is."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable

from elucid.training.preconds.base import Preconditioned
from elucid.training.types import Step


class EMA(ABC):
    """Averages of a denoiser's weights, by name, each a denoiser for evaluation; snapshots hold them in this order."""

    def __init__(self, denoiser: Preconditioned, names: Iterable[str]):
        self.averages: dict[str, Preconditioned] = {
            name: copy.deepcopy(denoiser).eval().requires_grad_(False) for name in names
        }

    @abstractmethod
    def update(self, denoiser: Preconditioned, step: Step) -> None:
        """Move every average after a step, which trained on `step.batch_size` images after the first `step.nimg`."""

    def state_dict(self) -> dict:
        return {name: average.state_dict() for name, average in self.averages.items()}

    def load_state_dict(self, state: dict) -> None:
        for name, average in self.averages.items():
            average.load_state_dict(state[name])
