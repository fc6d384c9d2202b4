"""Truncated consistency models (Lee et al. 2024, arXiv 2410.14895): a second stage for large noise levels only."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Copies, Load, with_levels
from elucid.training.losses.distillation.teacher import open_teacher, require_path
from elucid.training.losses.fewstep.ect import below
from elucid.training.losses.fewstep.pairs import ConsistencyPairs
from elucid.training.noise.distributions import NoiseDistribution
from elucid.training.preconds.base import Denoiser, Preconditioned
from elucid.training.types import Batch, LossOutput, Prediction, Step

CONSISTENT = frozenset(("ect", "ct", "ict", "cd", "scm", "scd"))
"""Losses of first stages."""


class TCM(ConsistencyPairs):
    """Pairs of ECT with t >= t' = `transition`; below it the frozen first stage, `teacher`, is the target.

    r = t (1 - (1 - ratio) (1 + k sigmoid(-b t))). A share `boundary_share` of each batch has t = t', where the first
    stage must be met, so that the second does not collapse; its mean is weighted by `boundary_weight` and added to the
    mean of the others. `noise` draws t, from t' on. Sample at levels >= t'. Logged: `boundary` and `above`, the two
    means. Raises UserError without a first stage, and for impossible numbers.
    """

    uses_all_parameters = True
    copies = Copies(opened=1)
    sampling = {"sampler": {"name": "consistency"}, "schedule": {"name": "chosen", "levels": [80.0, 1.0]}}

    def __init__(
        self,
        noise: NoiseDistribution,
        transition: float = 1.0,
        boundary_share: float = 0.25,
        boundary_weight: float = 0.1,
        ratio: float = 0.999,
        k: float = 8.0,
        b: float = 1.0,
        distance: str = "huber",
        c: float = 1e-8,
        weighting: str = "gap",
        teacher: str | None = None,
    ):
        super().__init__(distance, c, weighting)
        if not transition > 0 or not 0 < ratio < 1:
            raise UserError(f"loss.transition={transition:g} must be above 0, loss.ratio={ratio:g} between 0 and 1")
        if not 0 < boundary_share < 1 or boundary_weight < 0:
            raise UserError(
                f"loss.boundary_share={boundary_share:g} must be above 0 and below 1, loss.boundary_weight="
                f"{boundary_weight:g} not negative"
            )
        self.noise, self.transition, self.ratio, self.k, self.b = noise, transition, ratio, k, b
        self.boundary_share, self.boundary_weight, self.first_path = boundary_share, boundary_weight, teacher

    @classmethod
    def sampling_with(cls, options: dict) -> dict[str, dict]:
        return with_levels(cls.sampling, [80.0, float(options.get("transition", 1.0))])

    def check(self, denoiser: Preconditioned) -> None:
        super().check(denoiser)
        require_path(self, self.first_path, "its first stage, the snapshot of a model trained with ect")

    def setup(self, denoiser: Denoiser, load: Load) -> None:
        self.first = open_teacher(self, load, self.first_path, denoiser)
        losses = getattr(self.first, "losses", ())
        if losses and not CONSISTENT.intersection(losses):
            raise UserError(
                f"`teacher`={self.first_path} was trained with {losses[0]}, which makes no consistency model; train "
                "the first stage with `loss`=ect"
            )

    def lower(self, t: Tensor) -> Tensor:
        """Return r of t."""
        return below(t, 1 - self.ratio, self.k, self.b)

    def count(self, batch_size: int, step: Step) -> int:
        """Return how many images have t = t': the share of a batch, rounded at random, equally on all processes."""
        wanted = self.boundary_share * batch_size
        return int(wanted) + int(step.shared_rng("boundary").random() < wanted - int(wanted))

    def levels(self, denoiser: Denoiser, batch: Batch, step: Step) -> tuple[Tensor, Tensor]:
        t = self.noise.sample(len(batch), denoiser, batch.images.device).clamp_min(self.transition)
        t[: self.count(len(batch), step)] = self.transition
        return t, self.lower(t)

    def target(self, denoiser: Denoiser):
        """Return f-: the first stage below t', else the network itself."""

        def both(x: Tensor, sigma: Tensor, cond: dict) -> Prediction:
            above, below = denoiser(x, sigma, cond).x0, self.first(x, sigma, cond).x0
            return Prediction(torch.where(sigma < self.transition, below, above))

        return both

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        t, r = self.levels(denoiser, batch, step)
        loss = self.at(denoiser, batch, t, r, torch.randn_like(batch.images))
        boundary = torch.arange(len(batch), device=loss.device) < self.count(len(batch), step)
        return self.combined(loss, boundary)

    def combined(self, loss: Tensor, boundary: Tensor) -> LossOutput:
        """Return the output for the losses of all pairs [B], and which of them have t = t'."""
        share = boundary.to(loss.dtype).mean()
        at = torch.where(boundary, loss, 0) / share.clamp_min(1 / len(loss))
        above = torch.where(boundary, 0, loss) / (1 - share).clamp_min(1 / len(loss))
        total = above + self.boundary_weight * at
        return LossOutput(total, {"loss": total, "boundary": at, "above": above})
