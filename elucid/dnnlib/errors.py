"""The exception for errors that the user can fix."""


class UserError(Exception):
    """Raised for bad input. The message is one line that names the file or option and how to fix it.

    Scripts print it as `error: ...` and exit with code 2; no traceback is shown.
    """
