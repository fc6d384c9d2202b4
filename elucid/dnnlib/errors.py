"""The one exception that means "the user can mend this"."""


class UserError(Exception):
    """Bad input. The message is one line that names the file or option and says how to mend it.

    Scripts print it as `error: ...` and exit with code 2; no traceback is shown.
    """
