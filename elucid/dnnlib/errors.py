"""Exceptions: errors that the user can fix, and a training that was stopped. Notes, and the cleaning of all texts."""

import difflib
import errno
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path

EXIT_STOPPED = 75
"""Exit code of a run that was stopped and goes on with --resume; EX_TEMPFAIL of sysexits.h: try again later."""

# Control characters, invisible marks that change the direction of text, separators of lines, and lone surrogates.
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_LONGEST_WORD, _LONGEST = 500, 4000  # characters


def clean(text: str, longest: int = _LONGEST) -> str:
    """Return a text in one line that is safe to print, whatever names of files are in it.

    Control characters, escape sequences, marks of direction and lone surrogates are written as `\\x1b`, `\\u202e`;
    words over 500 characters, and texts over `longest`, are shortened in the middle.
    """
    words = (_shortened(word, _LONGEST_WORD) for word in text.split())
    return _shortened(clean_lines(" ".join(words)), longest)


def clean_lines(text: str) -> str:
    """Clean each line of a text, without shortening any."""
    return "\n".join(_UNPRINTABLE.sub(_escaped, line) for line in text.split("\n"))


def _escaped(match: re.Match) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _shortened(text: str, longest: int) -> str:
    half = (longest - 5) // 2
    return text if len(text) <= longest else f"{text[:half]} ... {text[-half:]}"


_noted: set[str] = set()


def note(text: str) -> None:
    """Print a note to stderr, once, on the main process."""
    if text not in _noted and int(os.environ.get("RANK", 0)) == 0:
        print(f"note: {clean(text)}", file=sys.stderr, flush=True)
    _noted.add(text)


class UserError(Exception):
    """Raised for bad input. The message is one line that names the file or option and how to fix it.

    Scripts print it as `error: ...` and exit with code 2; no traceback is shown. What files and names put into the
    message is made harmless (`clean`).
    """

    def __init__(self, *args):
        super().__init__(*(clean(one) if isinstance(one, str) else one for one in args))


class Stopped(KeyboardInterrupt):
    """Raised by `elucid.train` after a request to stop, as by Ctrl-C, once the state is saved in `folder`, at `nimg`.

    It is a KeyboardInterrupt, so that what follows in a script or notebook does not run with a half-trained model.
    `by_itself` tells whether the run has ended by itself, as of its time limit, and not by a signal.
    """

    def __init__(self, folder: Path, nimg: int, by_itself: bool = False):
        super().__init__(f"stopped at {nimg / 1000:.1f} kimg; continue with TrainOptions(resume={str(folder)!r})")
        self.folder, self.nimg, self.by_itself = folder, nimg, by_itself


def ran_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception of Python, the system or torch means that memory ran out."""
    texts = r"not enough memory|can't allocate memory|out of memory|cannot allocate memory"
    system = isinstance(error, OSError) and error.errno == errno.ENOMEM
    torch = isinstance(error, RuntimeError) and re.search(texts, str(error), re.IGNORECASE) is not None
    return isinstance(error, MemoryError) or system or torch


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the most similar known name, or an empty string if none is similar."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.55)
    return f" (did you mean {close[0]!r}?)" if close else ""
