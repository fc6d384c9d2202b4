"""Consistent Diffusion Models (Daras et al. 2023, arXiv 2302.09057): DSM plus a martingale term along sampled paths."""

import math
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.batches import repeat_batch
from elucid.training.losses.base import Loss, LossWrapper, per_element
from elucid.training.losses.dsm import DSM
from elucid.training.noise.schedules import rho_levels
from elucid.training.preconds.base import Denoiser
from elucid.training.samplers.sde import reverse_sde_path
from elucid.training.types import Batch, LossOutput, Prediction, Step


class ConsistencyLoss(LossWrapper):
    """base + weight * (D1 - D)(D2 - D), D = D(x; sigma), D_i = D(x_i; sigma') at the ends of two reverse-SDE paths.

    Both paths start at the base loss's (x, sigma) and end at sigma' = max(sigma - U(epsilon_min, epsilon_max),
    sigma_floor), over `martingale_steps` levels of the rho schedule. They carry no gradient; D and D_i do. A perfect
    denoiser is a martingale along the path, so the term's expectation is 0 (ibid., theorem 3.2). The term is computed
    for a random `consistency_fraction` of each batch and rescaled, which keeps the expected gradient. If that is less
    than one image, it is computed for one image in that fraction of the steps, the same steps on all processes.
    `path_mode` "eval" disables dropout on the paths; `reuse_start` uses D as the first prediction of the paths. On the
    paths the network runs in `path_precision`, None for that of the run; paths themselves are float64 where it exists.
    """

    uses_all_parameters = True

    def __init__(
        self,
        base: Loss,
        martingale_lambda: float = 10.0,
        martingale_steps: int = 6,
        epsilon_min: float = 0.0,
        epsilon_max: float = 0.05,
        sigma_floor: float = 0.002,
        rho: float = 7.0,
        consistency_fraction: float = 1.0,
        path_mode: str = "train",
        reuse_start: bool = True,
        path_precision: str | None = None,
    ):
        super().__init__(base)
        # A loss with further terms would lose them, as only its `evaluate` is used.
        if not isinstance(base, DSM) or not base.is_its_error:
            kind = type(base).__name__
            raise UserError(
                f"cdm wraps edm, vp, ve, iddpm, simple, or flow without cosine and mean, not {kind}; write e.g. "
                "patch(cdm(edm))"
            )
        if martingale_steps < 2:
            raise UserError(f"martingale_steps={martingale_steps}: a path needs at least 2 levels; published: 6")
        if not 0 <= epsilon_min <= epsilon_max:
            raise UserError(f"epsilon_min={epsilon_min}, epsilon_max={epsilon_max}: need 0 <= min <= max")
        for name, value in (("sigma_floor", sigma_floor), ("rho", rho)):
            if not value > 0:
                raise UserError(f"{name}={value} must be above 0; published: sigma_floor 0.002, rho 7")
        if not martingale_lambda >= 0:
            raise UserError(f"martingale_lambda={martingale_lambda} must not be negative; published: 10")
        if not 0 < consistency_fraction <= 1:
            raise UserError(f"consistency_fraction={consistency_fraction} must be above 0 and at most 1")
        if path_mode not in ("train", "eval"):
            raise UserError(f"path_mode={path_mode!r}: choose train or eval")
        if path_precision not in (None, "fp32", "bf16", "fp16"):
            raise UserError(f"path_precision={path_precision!r}: choose fp32, bf16 or fp16, or leave it out")
        self.martingale_lambda, self.martingale_steps, self.rho = martingale_lambda, martingale_steps, rho
        self.epsilon_min, self.epsilon_max, self.sigma_floor = epsilon_min, epsilon_max, sigma_floor
        self.consistency_fraction, self.path_mode, self.reuse_start = consistency_fraction, path_mode, reuse_start
        self.path_precision = path_precision

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        start = self.base.evaluate(denoiser, batch)
        dsm = start.error.sum(dim=(1, 2, 3))
        count, weight = self.subset_and_weight(len(batch), step)
        martingale = torch.zeros_like(dsm)  # of each image; 0 for those not chosen in this step
        if count > 0:
            everywhere = count == len(batch)
            chosen = slice(None) if everywhere else torch.randperm(len(batch), device=batch.images.device)[:count]
            cond = {key: value[chosen] for key, value in batch.cond.items()}
            x, sigma, x0 = start.x[chosen], start.sigma[chosen], start.prediction.x0[chosen]
            doubled = {key: repeat_batch(value) for key, value in cond.items()}
            ends, sigma_end = self.path_ends(denoiser, x, sigma, x0, doubled)
            term = self.consistency(denoiser, ends, sigma_end, x0, doubled)
            martingale[chosen] = term.sum(dim=(1, 2, 3)) * weight
        loss = dsm + self.martingale_lambda * martingale if count > 0 else dsm
        terms = {"loss": loss, "dsm": dsm, "consistency": martingale}
        return LossOutput(loss, {name: per_element(term, batch.images) for name, term in terms.items()})

    def subset_and_weight(self, batch_size: int, step: Step) -> tuple[int, float]:
        """Return how many images of the batch get the term in this step, and the weight that makes up for the rest."""
        wanted = self.consistency_fraction * batch_size
        if wanted >= 1:
            count = math.ceil(wanted)
            return count, batch_size / count
        return int(step.shared_rng("consistency").random() < wanted), batch_size / wanted

    def sigma_end(self, sigma: Tensor) -> Tensor:
        """Draw the end levels of paths from `sigma` [B,1,1,1]; never above their start."""
        epsilon = self.epsilon_min + torch.rand_like(sigma) * (self.epsilon_max - self.epsilon_min)
        return torch.minimum((sigma - epsilon).clamp(min=self.sigma_floor), sigma)

    @torch.no_grad()
    def path_ends(
        self, denoiser: Denoiser, x: Tensor, sigma: Tensor, x0: Tensor, doubled: dict
    ) -> tuple[Tensor, Tensor]:
        """Sample two paths per image; return their ends [2B,C,H,W] (first paths, then second) and levels [2B,1,1,1].

        `doubled` are the conditions of both.
        """
        end = self.sigma_end(sigma)
        sigmas = rho_levels(self.martingale_steps, repeat_batch(end).flatten(), repeat_batch(sigma).flatten(), self.rho)
        first = repeat_batch(x0.detach()) if self.reuse_start else None
        with running(denoiser, self.path_mode), at_precision(denoiser, self.path_precision):
            ends = reverse_sde_path(partial(denoiser, cond=doubled), repeat_batch(x), sigmas, first=first)
        return ends.to(x.dtype), repeat_batch(end)

    @staticmethod
    def consistency(denoiser: Denoiser, ends: Tensor, sigma_end: Tensor, x0: Tensor, doubled: dict) -> Tensor:
        """(D1 - D)(D2 - D), elementwise [B,C,H,W]."""
        prediction: Prediction = denoiser(ends, sigma_end, doubled)
        first, second = prediction.x0.chunk(2)
        return (first - x0) * (second - x0)


@contextmanager
def running(denoiser: Denoiser, mode: str):
    """Switch the denoiser to "train" or "eval" mode temporarily; one in eval mode stays there."""
    changes = denoiser.training and mode != "train"
    if changes:
        denoiser.eval()
    try:
        yield
    finally:
        if changes:
            denoiser.train()


@contextmanager
def at_precision(denoiser: Denoiser, precision: str | None):
    """Run the network in another precision temporarily; None changes nothing."""
    before = denoiser.precision if precision else None
    if precision:
        denoiser.precision = precision
    try:
        yield
    finally:
        if precision:
            denoiser.precision = before
