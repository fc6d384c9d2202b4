"""Exceptions: errors that the user can fix, and a training that was stopped."""

import difflib
from collections.abc import Iterable
from pathlib import Path

EXIT_STOPPED = 75
"""Exit code of a run that was stopped and goes on with --resume; EX_TEMPFAIL of sysexits.h: try again later."""


class UserError(Exception):
    """Raised for bad input. The message is one line that names the file or option and how to fix it.

    Scripts print it as `error: ...` and exit with code 2; no traceback is shown.
    """


class Stopped(KeyboardInterrupt):
    """Raised by `elucid.train` after a request to stop, as by Ctrl-C, once the state is saved in `folder`, at `nimg`.

    It is a KeyboardInterrupt, so that what follows in a script or notebook does not run with a half-trained model.
    `by_itself` tells whether the run has ended by itself, as of its time limit, and not by a signal.
    """

    def __init__(self, folder: Path, nimg: int, by_itself: bool = False):
        super().__init__(f"stopped at {nimg / 1000:.1f} kimg; continue with TrainOptions(resume={str(folder)!r})")
        self.folder, self.nimg, self.by_itself = folder, nimg, by_itself


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the most similar known name, or an empty string if none is similar."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.55)
    return f" (did you mean {close[0]!r}?)" if close else ""
