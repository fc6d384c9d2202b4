"""Progress bars for terminals and log files."""

import sys
from collections.abc import Iterable

from tqdm import tqdm

_LOG_SECONDS = 10.0  # interval of lines in a log file


def progress_bar(items: Iterable | None = None, *, unit: str = "img", **options) -> tqdm:
    """Return a tqdm bar over `items` or up to `total`; it updates rarely if the output is not a terminal."""
    terminal = sys.stderr.isatty()
    options.setdefault("mininterval", 0.2 if terminal else _LOG_SECONDS)
    return tqdm(items, unit=unit, dynamic_ncols=terminal, **options)
