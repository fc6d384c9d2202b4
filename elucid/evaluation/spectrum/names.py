"""Names that the command line checks before numpy is imported."""

WINDOWS = ("hann", "none")
