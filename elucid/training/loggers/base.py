"""Base class of loggers. To add one, subclass `Logger`, e.g. `--log=mine.py:Logger`."""

import warnings
from pathlib import Path
from typing import Any

from elucid.dnnlib.errors import UserError


class Logger:
    """Base class of loggers, called on the main process; constructed with the run's folder, or None.

    A logger that raises an exception is disabled with a warning; it never stops a run.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder

    def start(self, options: dict[str, Any], nimg: int) -> None:
        """Called when the run starts with these options, or resumes at `nimg` images."""

    def line(self, text: str) -> None:
        """Log a line of text."""

    def step(self, nimg: int, loss: float | None = None) -> None:
        """Called after each step, at `nimg` images; every few seconds with the mean `loss` of the tick so far."""

    def values(self, values: dict[str, dict[str, float]], nimg: int) -> None:
        """Log the statistics of a tick by name: {num, mean, std}."""

    def image(self, name: str, path: Path, nimg: int) -> None:
        """Log an image that was written to `path`."""

    def close(self) -> None:
        """Called when the run ends."""


class Loggers(Logger):
    """Passes everything on to several loggers, and drops a logger that fails."""

    def __init__(self, loggers=()):
        self.loggers: list[Logger] = list(loggers)

    def __call__(self, text: str) -> None:
        self.line(text)

    def _each(self, method: str, *args) -> None:
        for logger in list(self.loggers):
            try:
                getattr(logger, method)(*args)
            except Exception as error:  # noqa: BLE001  loggers are code from outside, and training must go on
                self.loggers.remove(logger)
                reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                text = f"warning: {type(logger).__name__} failed and is disabled ({reason}); training goes on"
                if self.loggers:
                    self.line(text)
                else:
                    warnings.warn(text, stacklevel=3)

    def start(self, options: dict[str, Any], nimg: int) -> None:
        self._each("start", options, nimg)

    def line(self, text: str) -> None:
        self._each("line", text)

    def step(self, nimg: int, loss: float | None = None) -> None:
        self._each("step", nimg, *([] if loss is None else [loss]))

    def values(self, values: dict[str, dict[str, float]], nimg: int) -> None:
        self._each("values", values, nimg)

    def image(self, name: str, path: Path, nimg: int) -> None:
        self._each("image", name, path, nimg)

    def close(self) -> None:
        self._each("close")
