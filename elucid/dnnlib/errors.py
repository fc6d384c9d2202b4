"""The exception for errors that the user can fix."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Raised for bad input. The message is one line that names the file or option and how to fix it.

    Scripts print it as `error: ...` and exit with code 2; no traceback is shown.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the most similar known name, or an empty string if none is similar."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.55)
    return f" (did you mean {close[0]!r}?)" if close else ""
