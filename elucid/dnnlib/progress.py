"""Progress bars that suit terminals and log files."""

import sys
from collections.abc import Iterable

from tqdm import tqdm

_LOG_SECONDS = 10.0  # between two lines, where each stays


def progress_bar(items: Iterable | None = None, *, unit: str = "img", **options) -> tqdm:
    """A tqdm bar over `items` or of `total`; in a terminal it moves at once, in a file now and then."""
    terminal = sys.stderr.isatty()
    options.setdefault("mininterval", 0.2 if terminal else _LOG_SECONDS)
    return tqdm(items, unit=unit, dynamic_ncols=terminal, **options)
