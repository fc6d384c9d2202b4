"""Samples in groups of K consecutive ones, each beside the truth of its condition."""

from collections.abc import Iterator
from contextlib import closing

import numpy as np

from elucid.api.evaluations.arrays.opening import Opened
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar


def count_groups(samples: Opened, truth: Opened, members: int, num: int | None = None) -> int:
    """Return the number of conditions: all, or the first `num`.

    Raises UserError unless there are `members` samples for each truth, or at least so many of the first `num`.
    """
    if members < 1:
        raise UserError(f"`members`={members} must be at least 1")
    if num is not None:
        if num < 1 or len(samples) < num * members or len(truth) < num:
            raise UserError(
                f"`num`={num} takes {num * members} samples, of which {samples.path} has {len(samples)}, and {num} of "
                f"`{truth.what}`, of which {truth.path} has {len(truth)}"
            )
        return num
    if len(samples) % members:
        raise UserError(
            f"`{samples.what}`: {samples.path} has {len(samples)} samples, no multiple of `members`={members}; "
            "generate the missing ones, or give another number"
        )
    if len(samples) // members != len(truth):
        raise UserError(
            f"`{truth.what}`: {truth.path} has {len(truth)} images for {len(samples) // members} conditions "
            f"({len(samples)} samples of {samples.path} / `members`={members}); give one for each, in the order of the "
            "samples, or the number of the first ones to use as `num`"
        )
    return len(truth)


def groups(
    samples: Opened, truth: Opened, members: int, num: int, workers: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the members [K,C,H,W] and the truth [C,H,W] of the first `num` conditions, one at a time, with progress."""
    group = np.empty((members, *samples.chosen_shape), samples.dtype)
    with closing(samples.stream(range(num * members), workers)) as stream:
        for index in progress_bar(range(num), desc="conditions", unit="condition", delay=1):
            for place in range(members):
                group[place] = next(stream)
            yield group, truth.image(index)
