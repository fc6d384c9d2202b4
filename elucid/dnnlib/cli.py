"""Shared by all commands: exit codes, one-line errors, and the parameter types of EDM's command lines."""

import math
import os
import re
import signal
import sys
import threading
import traceback
from contextlib import AbstractContextManager, nullcontext

import click

from elucid.dnnlib.errors import UserError, clean, ran_out_of_memory
from elucid.dnnlib.values import images_in, whole_images

_MOST_NUMBERS = 100_000_000  # longer lists are probably a mistake, and would fill the memory


class SingleProcess:
    """A single process: the interface that `run` uses; `elucid/torch_utils/torchrun/errors.py` has torchrun's."""

    is_main = True

    def watching(self) -> AbstractContextManager:
        """Context in which this process is terminated if another one fails, even while it waits."""
        return nullcontext()

    def report_failure(self, message: str) -> bool:
        """Tell the other processes of this failure; returns True in the process that should print it."""
        return True

    def another_failed(self, patience: float = 0) -> bool:
        """Return whether another process has failed, or fails within `patience` seconds; it reports the cause."""
        return False


def run(command: click.Command, args: list[str] | None = None, peers: SingleProcess | None = None) -> None:
    """Run a click command. Bad input gives one line on stderr and exit code 2, Ctrl-C and SIGTERM code 130."""
    peers = peers or SingleProcess()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that unfinished files are removed
    try:
        with peers.watching():
            code = command.main(args=args, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except UserError as error:
        if os.environ.get("ELUCID_TRACEBACK", "0") != "0":
            traceback.print_exc()
        fail(with_flags(str(error), command), peers)
    except click.ClickException as error:
        fail(error.format_message(), peers)
    except click.exceptions.Abort:
        if peers.another_failed():
            leave(2)  # torchrun terminates the others
        if peers.is_main:
            click.echo("error: interrupted", err=True)
        leave(130)
    except Exception as error:
        if ran_out_of_memory(error):
            reason = clean(str(error) or "no more is left", 200)
            fail(f"out of memory ({reason}); use smaller batches, fewer `workers` or a smaller network", peers)
        if not isinstance(error, RuntimeError) or not peers.another_failed(patience=2):
            raise
        leave(2)  # connection lost


def fail(message: str, peers: SingleProcess) -> None:
    """Print an error line on one of the failing processes and exit with code 2."""
    message = clean(message)
    if peers.report_failure(message):
        start = "" if peers.is_main else "\n"  # after the main process's progress bar
        click.echo(f"{start}error: {message}", err=True)
    sys.exit(2)


def with_flags(message: str, command: click.Command) -> str:
    """Replace arguments in a message of the library, written as `name`, by their command-line flags."""
    flags: dict[str, str] = {}
    for one in [command, *getattr(command, "commands", {}).values()]:
        flags |= {parameter.name: parameter.opts[0] for parameter in one.params if parameter.name}
    return re.sub(r"`(\w+)`", lambda match: flags.get(match[1], match[1]), message)


def leave(code: int) -> None:
    """Exit without waiting for threads."""
    if all(thread is threading.main_thread() or thread.daemon for thread in threading.enumerate()):
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class IntRange(click.ParamType):
    """A list of integers with ranges: `1,2,5-10` -> [1, 2, 5, 6, 7, 8, 9, 10]."""

    name = "list"

    def convert(self, value, param, ctx):
        if isinstance(value, list):
            return value
        numbers: list[int] = []
        for part in str(value).split(","):
            match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
            if match is None:
                self.fail(f"{value!r} is not a list like 0,3,10-20", param, ctx)
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                self.fail(f"the range {part!r} is reversed", param, ctx)
            if len(numbers) + last - first >= _MOST_NUMBERS:
                self.fail(f"{value!r} has more than {_MOST_NUMBERS} numbers", param, ctx)
            numbers.extend(range(first, last + 1))
        return numbers


class NumberList(click.ParamType):
    """A comma-separated list of numbers of one type: `1,2,2` -> [1, 2, 2].

    With `images` they are numbers of images in that unit, and may have prefixes: `1Mi,2Mi`.
    """

    name = "list"

    def __init__(self, number: type = int, images: int | None = None):
        self.number, self.images = number, images

    def convert(self, value, param, ctx):
        if isinstance(value, list):
            return value
        parts = str(value).split(",")
        if self.images is not None:
            parts = [_images(self, part, self.images, param, ctx) for part in parts]
        try:
            return [self.number(part) for part in parts]
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list of {self.number.__name__}s", param, ctx)


def _with_range(error: click.BadParameter, described: str) -> click.BadParameter:
    """Return click's error about a range, which names the range although the help does not."""
    message = error.message.replace("in the range .", f"in the range {described}.")
    return click.BadParameter(message, error.ctx, error.param, error.param_hint)


class Count(click.IntRange):
    """An integer of at least `min`, by default 1."""

    name = "int"

    def __init__(self, min: int = 1):
        super().__init__(min=min)

    def _describe_range(self) -> str:
        return ""  # keeps the range out of the help

    def convert(self, value, param, ctx):
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            raise _with_range(error, super()._describe_range()) from error


class CountOr(Count):
    """An integer of at least 1, or a word."""

    def __init__(self, word: str):
        super().__init__()
        self.word, self.name = word, f"int|{word}"

    def convert(self, value, param, ctx):
        if value == self.word:
            return value
        if not re.fullmatch(r"-?\d+", str(value)):
            self.fail(f"{value!r} is not a whole number of at least 1, nor {self.word}", param, ctx)
        return super().convert(value, param, ctx)


def _images(kind: click.ParamType, value, unit: int, param, ctx):
    """Return a number of images in this unit if the value has a prefix such as Ki, else the value."""
    try:
        return value if not isinstance(value, str) or whole_images(value) is None else images_in(value, unit)
    except UserError as error:
        kind.fail(str(error), param, ctx)


class ImageCount(CountOr):
    """A number of images, of at least 1: `2048` or `2Ki`; or a word."""

    def __init__(self, word: str | None = None):
        super().__init__(word or "")
        self.name = f"images|{word}" if word else "images"

    def convert(self, value, param, ctx):
        value = _images(self, value, 1, param, ctx)
        if self.word:
            return super().convert(value, param, ctx)
        if not re.fullmatch(r"-?\d+", str(value)):
            self.fail(f"{value!r} is not a number of images like 2048 or 2Ki", param, ctx)
        return Count.convert(self, value, param, ctx)


class FloatRange(click.FloatRange):
    """A finite number in a range; click's own lets `nan` through."""

    name = "number"

    def _describe_range(self) -> str:
        return ""

    def convert(self, value, param, ctx):
        try:
            number = super().convert(value, param, ctx)
        except click.BadParameter as error:
            raise _with_range(error, super()._describe_range()) from error
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Images(FloatRange):
    """A number of images, above 0, in units of `unit` images or with a prefix: `2.5`, `128Ki`, `2Gi`."""

    def __init__(self, unit: int):
        super().__init__(min=0, min_open=True)
        self.unit = unit

    def convert(self, value, param, ctx):
        return super().convert(_images(self, value, self.unit, param, ctx), param, ctx)


class Ticks(Count):
    """A number of ticks, or a text such as `8Mi`: images, which the length of a tick makes into ticks."""

    def __init__(self):
        super().__init__(min=0)

    def convert(self, value, param, ctx):
        if _images(self, value, 1, param, ctx) != value:
            return value
        if not re.fullmatch(r"-?\d+", str(value)):
            self.fail(f"{value!r} is neither a number of ticks nor images like 8Mi", param, ctx)
        return super().convert(value, param, ctx)


class Size(click.ParamType):
    """An image size `WxH` -> (width, height)."""

    name = "WxH"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)x(\d+)", str(value))
        if match is None or 0 in (int(match[1]), int(match[2])):
            self.fail(f"{value!r} is not a size like 32x32", param, ctx)
        return int(match[1]), int(match[2])
