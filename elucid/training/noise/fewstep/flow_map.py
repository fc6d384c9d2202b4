"""The levels at which a flow map is sampled: its last step goes where the flow ends."""

import math

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.paths import Path, path_of
from elucid.training.noise.schedules import Karras, Schedule, rho_levels

SPACINGS = ("uniform", "edm")


class FlowMapSteps(Schedule):
    """N steps from sigma_max to sigma_min, of which the last level stands as 0: the end of the denoiser's flow.

    `spacing` "uniform": t_i = t_max + (t_min - t_max) i / N on the denoiser's path, the linear one if it has none;
    "edm": the noise levels have equal steps of sigma^(1/rho) (Karras et al. 2022, eq. 5). Both as in IMM (Zhou et al.
    2025, arXiv 2503.07565), where a flow ends at t_min = 0.006. The ends are the denoiser's. Raises UserError for an
    unknown spacing.
    """

    default_range = (0.0, math.inf)

    def __init__(
        self,
        num_steps: int | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        spacing: str = "uniform",
        rho: float = 7.0,
    ):
        super().__init__(num_steps, sigma_min, sigma_max)
        if spacing not in SPACINGS:
            raise UserError(f"schedule.spacing={spacing!r} is unknown; choose from {', '.join(SPACINGS)}")
        if rho <= 0:
            raise UserError(f"rho={rho:g} must be above 0 (`rho`); EDM uses 7")
        self.spacing, self.rho = spacing, rho

    def levels(self, num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
        return self.on_path(path_of(None), num_steps, sigma_min, sigma_max)

    def on_path(self, path: Path, num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
        """Return the levels above 0 [N] on a path."""
        if self.spacing == "edm":
            return rho_levels(num_steps + 1, sigma_min, sigma_max, self.rho)[:-1]
        ends = torch.tensor([sigma_min, sigma_max], dtype=torch.float64)
        last, first = torch.where(ends < path.sigma_end, path.time(ends), 1.0)
        return path.sigma(first + (last - first) * torch.arange(num_steps, dtype=torch.float64) / num_steps)

    def __call__(self, denoise, num_steps: int = 1) -> Tensor:
        path = path_of(denoise)
        low, high = self.sigma_range(denoise)
        if getattr(denoise, "starts_from_noise", False) and self.sigma_max is None:
            high = path.sigma_end
        elif math.isinf(high):
            high = Karras.default_range[1]
        levels = denoise.round_sigma(self.on_path(path, self.num_steps or num_steps, low, high))
        return torch.cat([levels, levels.new_zeros(1)])
