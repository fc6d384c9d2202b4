"""What the samples of each condition say together, as one file."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import atomic_write, require_writable
from elucid.training.inverse.summary import summary
from elucid.training.sampling.conditions.given import GivenConditions
from elucid.training.sampling.output.folder import SampleFolder


def require_members(seeds: Sequence[int], given: GivenConditions | None, path: str | os.PathLike) -> int:
    """Return the number of samples of each condition. Raises UserError unless these seeds are all samples of some."""
    members = 1 if given is None else given.members
    if members < 2:
        raise UserError(f"`summary`={path} needs several samples of each condition; give `members`, e.g. 16")
    ordered = np.array(sorted(seeds)).reshape(-1, members) if len(seeds) % members == 0 else None
    if ordered is None or (ordered[:, 0] % members).any() or (np.ptp(ordered, axis=1) != members - 1).any():
        raise UserError(
            f"`summary`={path}: `seeds` must be all {members} of each condition, as 0-{members * 4 - 1} of four"
        )
    require_writable(os.fspath(path))
    return members


def write_summary(
    folder: SampleFolder, classes: Mapping[int, int | None], given: GivenConditions | None, path: str | os.PathLike
) -> None:
    """Write `mean`, `std`, `low` and `high` f32[N,C,H,W] of the samples of each of N conditions, and `conditions` [N].

    The interval between `low` and `high` contains the truth with probability `level`, 0.9 from 19 members on. In the
    data's own units, of pictures 0 to 255.
    """
    seeds = sorted(classes)
    members = require_members(seeds, given, path)
    found: dict[str, list[np.ndarray]] = {"mean": [], "std": [], "low": [], "high": []}
    level = 0.9
    for start in range(0, len(seeds), members):  # one condition is in memory at a time
        some = {seed: classes[seed] for seed in seeds[start : start + members]}
        one = summary(folder.read(some).to(torch.float64), members)
        level = one.level
        for name, values in found.items():
            values.append(getattr(one, name)[0].to(torch.float32).numpy())
    arrays = {name: np.stack(values) for name, values in found.items()}
    try:
        with atomic_write(path) as file:
            np.savez(file, **arrays, level=level, conditions=np.array(seeds[::members]) // members)
    except OSError as error:
        raise UserError(f"`summary`={path} cannot be written: {error.strerror}; make room and run again") from error
