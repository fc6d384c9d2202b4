"""Samples in groups of K consecutive ones, each beside the truth of its condition."""

from collections.abc import Iterator
from contextlib import closing

import numpy as np

from elucid.api.evaluations.arrays.opening import Opened
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar


def require_groups(samples: Opened, truth: Opened, members: int) -> None:
    """Raise UserError unless there are `members` samples for each truth."""
    if members < 1:
        raise UserError(f"`members`={members} must be at least 1")
    if len(samples) % members:
        raise UserError(
            f"`{samples.what}`: {samples.path} has {len(samples)} samples, no multiple of `members`={members}; "
            "generate the missing ones, or give another number"
        )
    if len(samples) // members != len(truth):
        raise UserError(
            f"`truth`: {truth.path} has {len(truth)} images for {len(samples) // members} conditions ({len(samples)} "
            f"samples of {samples.path} / `members`={members}); give one for each, in the order of the samples"
        )


def groups(
    samples: Opened, truth: Opened, members: int, workers: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the members [K,C,H,W] and the truth [C,H,W] of each condition, with progress; one condition at a time."""
    group = np.empty((members, *samples.chosen_shape), samples.dtype)
    with closing(samples.stream(range(len(samples)), workers)) as stream:
        for index in progress_bar(range(len(truth)), desc="conditions", unit="condition", delay=1):
            for place in range(members):
                group[place] = next(stream)
            yield group, truth.image(index)
