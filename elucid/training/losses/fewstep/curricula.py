"""Curricula of consistency models: how many noise levels, how fast the target follows; functions of the step."""

import math

from elucid.training.types import Step


def steps_of(step: Step) -> tuple[int, int]:
    """Return the index of the optimizer step and the number of all, from the images seen."""
    return step.nimg // step.batch_size, max(step.total_nimg // step.batch_size, 1)


def warmed(step: Step, steps: int) -> float:
    """Return min(1, k / steps) in optimizer step k, 1 without any."""
    return min(1.0, step.index / steps) if steps else 1.0


def growing(k: int, total: int, start: int, end: int) -> int:
    """Return CM's number of intervals, ceil(sqrt(k/K ((s1 + 1)^2 - s0^2) + s0^2) - 1) (Song et al. 2023, app. C)."""
    return max(math.ceil(math.sqrt(k / total * ((end + 1) ** 2 - start**2) + start**2) - 1), 1)


def doubling(k: int, total: int, start: int, end: int) -> int:
    """Return iCT's number of intervals, min(s0 2^floor(k/K'), s1), K' = floor(K / (log2(s1/s0) + 1)).

    (Song & Dhariwal 2023, arXiv 2310.14189, section 3.4.)
    """
    each = max(math.floor(total / (math.log2(math.floor(end / start)) + 1)), 1)
    return min(start * 2 ** min(k // each, 64), end)


def halving(k: int, each: int, start: int) -> int:
    """Return the number of steps of progressive distillation: half every `each` steps, the last two take twice as long.

    (Salimans & Ho 2022, arXiv 2202.00512, appendix G.)
    """
    to_two = int(math.log2(start)) - 1  # halvings down to two steps
    if k < each * to_two:
        return start >> (k // each)
    return 2 if k < each * (to_two + 2) else 1


def target_decay(start_decay: float, start: int, intervals: int) -> float:
    """Return mu(k) = exp(s0 ln(mu0) / N(k)), the decay of the target's average (Song et al. 2023, app. C)."""
    return math.exp(start * math.log(start_decay) / intervals)
