"""Consistency training: CM's (Song et al. 2023, arXiv 2303.01469), iCT's (Song & Dhariwal 2023, arXiv 2310.14189)."""

import copy
import math
from collections.abc import Set as AbstractSet

import numpy as np
import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.transfer import moved
from elucid.training.losses.base import Copies, Load, with_levels
from elucid.training.losses.fewstep.curricula import doubling, growing, steps_of, target_decay
from elucid.training.losses.fewstep.pairs import ConsistencyPairs
from elucid.training.noise.schedules import rho_levels
from elucid.training.preconds.base import Denoiser
from elucid.training.types import Batch, Step

CURRICULA = ("fixed", "growing", "doubling")
INDICES = ("uniform", "lognormal")


class ConsistencyTraining(ConsistencyPairs):
    """Pairs of neighbours on a grid of N + 1 levels, N from `start` to `end`: fixed, growing, doubling.

    The grid is EDM's from `sigma_max` to `sigma_min` with `rho`. The upper of a pair is drawn uniformly, or so that
    ln t is about N(P_mean, P_std^2) (`index` lognormal). The target is an average of the network with `target_decay`,
    with `adaptive` mu(k) = exp(start ln(target_decay) / N); without one it is the network itself, as in iCT. Other
    options as in `ConsistencyPairs`. Logged: `intervals` and `target_decay`. Raises UserError for impossible numbers.
    """

    uses_all_parameters = True

    def __init__(
        self,
        curriculum: str = "growing",
        start: int = 2,
        end: int = 200,
        target_decay: float | None = 0.95,
        adaptive: bool = True,
        index: str = "uniform",
        P_mean: float = -1.1,
        P_std: float = 2.0,
        distance: str = "l2",
        c: float | None = None,
        weighting: str = "uniform",
        sigma_min: float = 0.002,
        sigma_max: float = 80.0,
        rho: float = 7.0,
        teacher: str | None = None,
        solver: str = "heun",
    ):
        super().__init__(distance, c, weighting, teacher, solver)
        for name, value, choices in (("curriculum", curriculum, CURRICULA), ("index", index, INDICES)):
            if value not in choices:
                raise UserError(f"loss.{name}={value!r} is unknown; choose from {', '.join(choices)}")
        if not 1 <= start <= end or not 0 < sigma_min < sigma_max or not rho > 0:
            raise UserError(
                f"loss.start={start}, loss.end={end}: need 1 <= start <= end; loss.sigma_min={sigma_min:g}, "
                f"loss.sigma_max={sigma_max:g}: need 0 < min < max; rho={rho:g} above 0"
            )
        if target_decay is not None and not 0 < target_decay < 1:
            raise UserError(f"loss.target_decay={target_decay:g} must be above 0 and below 1, or null for no average")
        self.curriculum, self.start, self.end, self.index = curriculum, start, end, index
        self.target_decay, self.adaptive, self.P_mean, self.P_std = target_decay, adaptive, P_mean, P_std
        self.sigma_min, self.sigma_max, self.rho = sigma_min, sigma_max, rho

    @classmethod
    def sampling_with(cls, options: dict) -> dict[str, dict]:
        return with_levels(
            cls.sampling, [float(options.get("sigma_max", 80.0)), *cls.sampling["schedule"]["levels"][1:]]
        )

    @property
    def copies(self) -> Copies:  # type: ignore[override]
        return super().copies._replace(kept=int(self.target_decay is not None))

    def setup(self, denoiser: Denoiser, load: Load) -> None:
        super().setup(denoiser, load)
        self.average = copy.deepcopy(denoiser).requires_grad_(False) if self.target_decay is not None else None

    def intervals(self, step: Step) -> int:
        """Return N, a pure function of the images seen."""
        if self.curriculum == "fixed":
            return self.end
        return {"growing": growing, "doubling": doubling}[self.curriculum](*steps_of(step), self.start, self.end)

    def decay(self, step: Step) -> float:
        """Return mu of the target's average."""
        assert self.target_decay is not None
        return target_decay(self.target_decay, self.start, self.intervals(step)) if self.adaptive else self.target_decay

    def grid(self, intervals: int, device=None) -> Tensor:
        """Return the N + 1 levels, largest first, float64."""
        return rho_levels(intervals + 1, self.sigma_min, self.sigma_max, self.rho, device)

    def chances(self, grid: Tensor) -> Tensor:
        """Return the probabilities of the N pairs, of a lognormal index differences of erf (ibid., eq. 11)."""
        if self.index == "uniform":
            return torch.full((len(grid) - 1,), 1 / (len(grid) - 1), dtype=torch.float64, device=grid.device)
        below = torch.erf((grid.log() - self.P_mean) / (math.sqrt(2) * self.P_std))
        return (below[:-1] - below[1:]) / (below[0] - below[-1])

    def levels(self, denoiser: Denoiser, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        # On the host, and moved: what multinomial does on CUDA has no fixed order of sums.
        grid, device = self.grid(self.intervals(step)), batch.images.device
        below = moved(torch.from_numpy(np.cumsum(self.chances(grid).numpy())[:-1]).float(), device)
        index = torch.searchsorted(below, torch.rand(len(batch), device=device))
        grid = moved(grid.to(batch.images.dtype), device).reshape(-1, 1, 1, 1)
        return grid[index], grid[index + 1]

    def target(self, denoiser: Denoiser) -> Denoiser:
        return denoiser if self.average is None else self.average

    def terms(self, step: Step, t: Tensor, r: Tensor) -> dict[str, Tensor]:
        decay = {} if self.target_decay is None else {"target_decay": t.new_tensor(self.decay(step))}
        return {"intervals": t.new_tensor(float(self.intervals(step))), **decay}

    @torch.no_grad()
    def after_step(self, denoiser: Denoiser, step: Step, stepped: AbstractSet[str]) -> None:
        """Move the target's average towards the network, unless the step was left out."""
        if self.average is None or "main" not in stepped:
            return
        ours, theirs = list(self.average.parameters()), [one.detach() for one in denoiser.parameters()]
        torch._foreach_lerp_(ours, theirs, 1 - self.decay(step))
        for own, other in zip(self.average.buffers(), denoiser.buffers(), strict=True):
            own.copy_(other)
