"""Averages of any length from the snapshots of a run."""

import os
from collections.abc import Sequence
from pathlib import Path

from elucid.api.export import require_free
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable
from elucid.training.snapshots.reconstruct import Reconstruction, Target, reconstruct
from elucid.training.snapshots.snapshot import save_folder, save_snapshot
from elucid.training.snapshots.trust import import_plugins


def export_averages(
    run: str | os.PathLike,
    dest: str | os.PathLike,
    *,
    std: Sequence[float] = (),
    halflife: Sequence[float] = (),
    at: float | None = None,
    plugins: Sequence[str] = (),
) -> Reconstruction:
    """Reconstruct averages from the snapshots of a run, finished or still training, and write them as one snapshot.

    `std`: lengths of power functions, relative to the training; `halflife`: half-lives in millions of images. `at`: in
    thousands of images, the newest snapshot up to there is the end. `dest` is a file .pkl, or a folder to be written
    as `export.py safetensors` does. The averages are named by their length. Returns them, with the distance of each
    profile from the wished one as a share of it. Raises UserError.
    """
    path, targets = Path(dest), [*(Target(std=one) for one in std), *(Target(halflife_mimg=one) for one in halflife)]
    if not targets:
        raise UserError("give the lengths to reconstruct: `std`=0.05:0.2, or `halflife`=0.5")
    if path.suffix == ".pkl":
        require_writable(path)
    elif path.suffix:
        raise UserError(f"`dest`={dest} must end in .pkl, or be a folder")
    else:
        require_free(path)
    import_plugins(plugins)
    found = reconstruct(run, targets, None if at is None else round(at * 1000))
    (save_snapshot if path.suffix == ".pkl" else save_folder)(path, found.snapshot)
    return found
