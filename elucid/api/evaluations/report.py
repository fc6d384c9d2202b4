"""Writes a report on training runs: reads the folders, samples from their newest snapshots, makes one HTML file."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from elucid.api.evaluations.class_samples import class_samples, open_samples
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable, write_output
from elucid.evaluation.report.collect import read_runs
from elucid.evaluation.report.page import page
from elucid.evaluation.results import load_result
from elucid.torch_utils import distributed
from elucid.training.sampling.options import SampleOptions

MOST_PER_CLASS = 8


def report(
    runs: str | os.PathLike | Sequence[str | os.PathLike],
    dest: str | os.PathLike,
    *,
    names: Sequence[str] | None = None,
    samples: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    results: Sequence[str | os.PathLike] = (),
    per_class: int = 4,
    sampling: bool = True,
    grids: int = 24,
    plugins: str | Sequence[str] | None = None,
    batch: int = 64,
    device: str | None = None,
) -> Path:
    """Write a page about one run folder, or several side by side, and return its path.

    The page needs no other file. It shows summary, curves, at most `grids` sample grids of each run over time,
    real images beside samples, the results saved in the runs' `evaluations` and the files `results`, settings and
    environment. `names` replace the folders' names. Samples, at most `per_class` of each class, are read from
    `samples`, one folder for each run as `elucid.generate(..., labels=True)` writes it, or drawn from the newest
    snapshots unless `sampling` is False; with `per_class` 0 this part is left out. `plugins` are modules and files that
    snapshots may use. Under torchrun the main process does all. Raises UserError for a folder that holds no run, for
    results that cannot be read, and if `dest` cannot be written.
    """
    folders = [runs] if isinstance(runs, str | os.PathLike) else list(runs)
    given = [samples] if isinstance(samples, str | os.PathLike) else list(samples or ())
    place = distributed.choose_device(device)
    if not 0 <= per_class <= MOST_PER_CLASS:
        raise UserError(f"`per_class`={per_class} is not between 0 and {MOST_PER_CLASS}")
    if grids < 1:
        raise UserError(f"`grids`={grids} leaves no sample grid; give at least 1")
    if given and len(given) != len(folders):
        raise UserError(f"`samples` has {len(given)} folders for {len(folders)} runs; give one for each, in order")
    if not distributed.is_main():
        return Path(dest)
    require_writable(dest)
    records = read_runs(folders, names)
    others = [(Path(file), load_result(file)) for file in results]
    opened = [open_samples(folder) for folder in given]
    drawn = SampleOptions(plugins=plugins) if sampling else None
    shown = class_samples(records, opened, per_class, drawn, batch, place) if per_class else []
    text = page(records, shown, others, grids)
    with write_output(dest) as file:
        file.write(text.encode())
    for record in records:
        for note in record.notes:
            print(f"note: {record.folder}: {note}", file=sys.stderr)
    return Path(dest)
