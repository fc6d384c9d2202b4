"""Base class of weight averages."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.ema.profiles import Profile
from elucid.training.preconds.base import Preconditioned
from elucid.training.types import Step


class EMA(ABC):
    """Averaged copies of a denoiser by name, in eval mode; snapshots store them in this order."""

    def __init__(self, denoiser: Preconditioned, names: Iterable[str]):
        self.averages: dict[str, Preconditioned] = {
            name: copy.deepcopy(denoiser).eval().requires_grad_(False) for name in names
        }

    @abstractmethod
    def update(self, denoiser: Preconditioned, step: Step) -> None:
        """Update all averages after a step on `step.batch_size` images; `step.nimg` were seen before it."""

    def update_if(self, stepped: bool | Tensor, denoiser: Preconditioned, step: Step) -> None:
        """Update all averages unless the step was left out; override it to spare the wait if the device decides."""
        if bool(stepped):
            self.update(denoiser, step)

    @classmethod
    def profiles(cls, options: dict, nimg: int) -> dict[str, Profile]:
        """Return the profile of each average with these options after `nimg` images, for its reconstruction.

        Raises UserError if others cannot be reconstructed from averages of this kind.
        """
        raise UserError(f"from averages of the kind {cls.__name__} no others can be reconstructed; use power")

    def state_dict(self) -> dict:
        return {name: average.state_dict() for name, average in self.averages.items()}

    def load_state_dict(self, state: dict) -> None:
        for name, average in self.averages.items():
            average.load_state_dict(state[name])
