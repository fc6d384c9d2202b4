"""Easy consistency tuning (Geng et al. 2024, arXiv 2406.14548): a diffusion model becomes a consistency model."""

import math

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.losses.fewstep.pairs import ConsistencyPairs
from elucid.training.noise.distributions import NoiseDistribution
from elucid.training.preconds.base import Denoiser
from elucid.training.types import Batch, Step

MAPPINGS = ("sigmoid", "const")

NEAREST = 1 - 2.0**-20
"""Largest r / t, so that t - r is not 0 in float32, whatever the stage."""


def below(t: Tensor, gap: float, k: float = 8.0, b: float = 1.0) -> Tensor:
    """Return r = max(t (1 - gap (1 + k sigmoid(-b t))), 0)."""
    return (t * (1 - gap * (1 + k * torch.sigmoid(-b * t)))).clamp_min(0)


class ECT(ConsistencyPairs):
    """Pairs t and r = max(t (1 - q^-(stage+1) n(t)), 0), n = 1 + k sigmoid(-b t), or 1 with `mapping` "const".

    r nears t from stage to stage: at first the target is nearly the clean image, as in diffusion, which a network of a
    trained model (`transfer`) knows; at last the pairs are close. There are `stages` equal ones in a training, or
    one for each `double_mimg` million images. `noise` draws t. Distance: with `c` Pseudo-Huber over an image. FastGen
    bounds the ratio by `ratio_limit` and r by `r_min`, and takes a `teacher`. Logged: `stage` and `ratio` =
    1 - q^-(stage+1). Raises UserError for impossible numbers.
    """

    uses_all_parameters = tunes = True

    def __init__(
        self,
        noise: NoiseDistribution,
        q: float = 2.0,
        k: float = 8.0,
        b: float = 1.0,
        mapping: str = "sigmoid",
        stages: int = 8,
        double_mimg: float | None = None,
        distance: str = "huber",
        c: float = 0.0,
        weighting: str = "gap",
        ratio_limit: float = 1.0,
        r_min: float = 0.0,
        teacher: str | None = None,
        solver: str = "heun",
    ):
        super().__init__(distance, c, weighting, teacher, solver)
        if mapping not in MAPPINGS:
            raise UserError(f"loss.mapping={mapping!r} is unknown; choose from {', '.join(MAPPINGS)}")
        if not q > 1 or stages < 1 or (double_mimg is not None and not double_mimg > 0):
            raise UserError(f"loss.q={q:g} must be above 1, loss.stages={stages} 1 or more, loss.double_mimg above 0")
        self.noise, self.q, self.k, self.b, self.mapping = noise, q, k, b, mapping
        if not 0 < ratio_limit <= 1 or r_min < 0:
            raise UserError(f"loss.ratio_limit={ratio_limit:g} must be in (0, 1], loss.r_min={r_min:g} not negative")
        self.stages, self.double_mimg, self.ratio_limit, self.r_min = stages, double_mimg, ratio_limit, r_min

    def check(self, denoiser) -> None:
        super().check(denoiser)
        self.noise.check(denoiser)

    def stage(self, step: Step) -> int:
        """Return the stage, from 0, a pure function of the images seen."""
        if self.double_mimg is not None:
            return int(step.nimg // (self.double_mimg * 1e6))
        return min(math.floor(step.progress * self.stages), self.stages - 1)

    def gap(self, stage: int) -> float:
        """Return q^-(stage+1), at least 1 - `ratio_limit`: what (t - r) / t tends to for large t."""
        return max(self.q ** -(stage + 1), 1 - self.ratio_limit)

    def lower(self, t: Tensor, stage: int) -> Tensor:
        """Return r of t."""
        return below(t, self.gap(stage), self.k if self.mapping == "sigmoid" else 0, self.b).clamp_min(self.r_min)

    def levels(self, denoiser: Denoiser, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        t = self.noise.sample(len(batch), denoiser, batch.images.device).clamp_min(2 * self.r_min)
        return t, torch.minimum(self.lower(t, self.stage(step)), t * NEAREST)

    def terms(self, step: Step, t: Tensor, r: Tensor) -> dict[str, Tensor]:
        stage = self.stage(step)
        return {"stage": t.new_tensor(float(stage)), "ratio": t.new_tensor(1 - self.gap(stage))}
