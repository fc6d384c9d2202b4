"""How good ensembles of samples are against the truth."""

import os
from collections.abc import Sequence
from dataclasses import replace

from elucid.api.evaluations.arrays.groups import count_groups, groups
from elucid.api.evaluations.arrays.opening import Given, open_pair
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable
from elucid.evaluation.ensemble.measure import Ensembles
from elucid.evaluation.ensemble.summary import summarise
from elucid.evaluation.results import Result


def ensemble(
    samples: Given,
    truth: Given,
    *,
    members: int,
    num: int | None = None,
    channels: str | Sequence[str | int] | None = None,
    seed: int = 0,
    dest: str | os.PathLike | None = None,
    workers: int | None = None,
) -> Result:
    """Compare ensembles of samples with the truth: error, spread, CRPS, ranks and coverage, in the data's own units.

    `samples` are `members` consecutive ones for each condition, `truth` one for each, of which the first `num` are used
    or all: folders, zips, npz files, arrays [N,C,H,W] or data sets. `channels` are names or numbers from 0. Spread has
    the factor sqrt((K + 1) / K), so that spread/RMSE is 1 for a calibrated ensemble (Fortin et al. 2014); the fair CRPS
    is unbiased for any K (Ferro 2014); `seed` breaks ties of ranks and resamples conditions, which 95 % intervals are
    over. The value is the mean over channels of the fair CRPS in deviations of the truth. Raises UserError for a single
    member, sets that do not fit, and NaN, with its place.
    """
    if dest is not None:
        require_writable(dest)
    if members == 1:
        raise UserError(
            "`members`=1 has no spread; give at least 2 samples for each condition, or compare single ones with "
            "evaluate.py restoration"
        )
    drawn, real = open_pair(("samples", samples), ("truth", truth), channels)
    count = count_groups(drawn, real, members, num)
    found = Ensembles(members, len(real.channels), seed)
    for group, one in groups(drawn, real, members, count, workers):
        found.add(group, one)
    result = summarise(found, real.labels, seed)
    result = replace(result, about={"samples": drawn.path, "truth": real.path, **result.about})
    if dest is not None:
        result.save(dest)
    return result
