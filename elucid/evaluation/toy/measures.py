"""How good samples of a known density are, and how far a model's score is from the true one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from elucid.evaluation.toy.mixture import Mixture

BLUR = 0.01
"""Noise of the density that samples are judged by: about the width of the thinnest branches."""

NEAR = 0.05
"""How near a sample must be for a true point to be reached: a tenth of the set's deviation."""

LIMIT_POINTS = 20_000
"""True points that the limit of the set is found from."""

OFF = 0.001
"""Share of true points that count as off the set, by definition."""


@dataclass(frozen=True)
class Quality:
    """`off`: share of samples where the density is below that of all but 0.1 % of true points; `likelihood`: the mean
    of ln p; `outliers`: mean of ln p of the 5 % of samples with the lowest; `reached`: share of true points with a
    sample within NEAR, which true samples reach nearly all of; `deviation`: of samples, as a share of the truth's."""

    off: float
    likelihood: float
    outliers: float
    reached: float
    deviation: float


def quality(mixture: Mixture, samples: Tensor, seed: int = 0) -> Quality:
    """Judge samples [N,2] by as many true points."""
    true, _ = mixture.sample(len(samples), torch.Generator().manual_seed(seed))
    many, _ = mixture.sample(LIMIT_POINTS, torch.Generator().manual_seed(seed + 1))
    found, limit = mixture.log_density(samples, BLUR), torch.quantile(mixture.log_density(many, BLUR), OFF)
    lowest = found.sort().values[: max(len(found) // 20, 1)]
    return Quality(
        off=float((found < limit).double().mean()),
        likelihood=float(found.mean()),
        outliers=float(lowest.mean()),
        reached=reached(true, samples),
        deviation=float(deviation(samples) / deviation(true)),
    )


def reached(true: Tensor, samples: Tensor) -> float:
    """Return the share of true points [N,2] that have a sample [M,2] within NEAR."""
    near = [torch.cdist(part, samples.double()).min(dim=1).values <= NEAR for part in true.double().split(512)]
    return float(torch.cat(near).double().mean())


def deviation(points: Tensor) -> Tensor:
    return points.double().var(dim=0).sum().sqrt()


@torch.no_grad()
def score_errors(denoiser, mixture: Mixture, cond: dict, sigmas: list[float], count: int = 2048) -> list[float]:
    """Return |s - s*| / |s*| at noise levels: root mean squares over noisy true points, s* being the true score."""
    errors = []
    clean, _ = mixture.sample(count, torch.Generator().manual_seed(1))
    noise = torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for sigma in sigmas:
        points = clean + sigma * noise
        x = points.float()[:, :, None, None]
        given = {name: value[:1].expand(count, -1) for name, value in cond.items()}
        score = (denoiser(x, torch.full((count,), sigma), given).x0 - x).flatten(1).double() / sigma**2
        true = mixture.score(points, sigma)
        errors.append(float((score - true).norm() / true.norm()))
    return errors
