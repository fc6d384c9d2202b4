"""What several samples of a posterior say together: mean, deviation and intervals of each pixel."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError


@dataclass(frozen=True)
class Summary:
    """Mean, deviation and ends of the intervals of each pixel [N,C,H,W]; `level` is what the intervals contain.

    That is the probability with which the truth of a pixel lies in its interval if the samples are of its posterior.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor
    level: float


def summary(samples: Tensor, members: int, level: float = 0.9) -> Summary:
    """Return the summary of samples [N*members,C,H,W], `members` after each other of each measurement, float64.

    The deviation is the unbiased one. Truth and `members` samples of its posterior are exchangeable, so the truth lies
    below the i-th smallest with probability i / (members + 1); ends between two of them are interpolated. Fewer than
    2 / (1 - level) - 1 members (19 for 0.9) have no such interval, and get all of their range, whose level is
    (members - 1) / (members + 1). Raises UserError unless there are at least 2 members that divide the samples, and
    0 < level < 1.
    """
    if members < 2 or len(samples) % members or not len(samples):
        raise UserError(f"`members`={members} must be at least 2 and divide the {len(samples)} samples")
    if not 0 < level < 1:
        raise UserError(f"level={level:g} must be between 0 and 1, e.g. 0.9")
    groups = samples.to(torch.float64).unflatten(0, (-1, members))
    level = min(level, (members - 1) / (members + 1))
    ordered, rank = groups.sort(dim=1).values, (1 - level) / 2 * (members + 1)
    low, high = at_rank(ordered, rank), at_rank(ordered, members + 1 - rank)
    return Summary(groups.mean(1), groups.std(1), low, high, level)


def at_rank(ordered: Tensor, rank: float) -> Tensor:
    """Return the value of a rank from 1 to K among ordered ones [N,K,...], interpolated between the nearest two."""
    last = ordered.shape[1] - 1
    below = min(max(math.floor(rank), 1) - 1, last)
    share = min(max(rank - 1 - below, 0.0), 1.0)
    return torch.lerp(ordered[:, below], ordered[:, min(below + 1, last)], share)
