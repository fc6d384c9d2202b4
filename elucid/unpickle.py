"""The function that pickled snapshots refer to. This module must not move, so that existing files stay readable."""

from typing import Any


def denoiser(record: dict[str, Any]):
    """Create a denoiser from a snapshot's record, so that plain `pickle.load(file)["ema"]` works.

    Use `elucid.training.snapshots` for untrusted files: plain pickle runs arbitrary code.
    """
    from elucid.training.snapshots.records import rebuild_denoiser

    return rebuild_denoiser(record)
