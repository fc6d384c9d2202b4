"""The one function that a pickled snapshot names. This module never moves: files that name it must stay readable."""

from typing import Any


def denoiser(record: dict[str, Any]):
    """The denoiser that a snapshot's record describes, so that plain `pickle.load(file)["ema"]` works.

    Use `elucid.training.snapshots` for files from elsewhere: plain pickle runs whatever a file names.
    """
    from elucid.training.snapshots.records import rebuild_denoiser

    return rebuild_denoiser(record)
