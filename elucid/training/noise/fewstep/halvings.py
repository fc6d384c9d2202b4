"""The noise levels of progressive distillation, of which those of half the steps are every second one."""

from torch import Tensor

from elucid.training.noise.schedules import Karras, rho_levels


class Halvings(Karras):
    """The first N of N + 1 levels of EDM's schedule, so that each of N steps is two of 2 N (Salimans & Ho 2022)."""

    def levels(self, num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
        return rho_levels(num_steps + 1, sigma_min, sigma_max, self.rho)[:-1]
