"""What all command lines share: exit codes, one-line errors, and the value formats of the EDM family."""

import math
import os
import re
import signal
import sys
import threading
import traceback
from contextlib import AbstractContextManager, nullcontext

import click

from elucid.dnnlib.errors import UserError

_MOST_NUMBERS = 100_000_000  # more in one list are a slip, and would fill the memory


class SingleProcess:
    """One process. What `run` asks about others; `elucid/torch_utils/torchrun_errors.py` knows those of torchrun."""

    is_main = True

    def watching(self) -> AbstractContextManager:
        """While it is open, this process is ended if another fails, whatever it waits for."""
        return nullcontext()

    def first_to_fail(self, message: str) -> bool:
        """True in the one process that is to print its error."""
        return True

    def failed(self, patience: float = 0) -> bool:
        """Whether another process has failed, or does within `patience` seconds: then it explains what happened."""
        return False


def run(command: click.Command, args: list[str] | None = None, peers: SingleProcess | None = None) -> None:
    """Run a click command; bad input ends in one line on stderr and exit code 2, Ctrl-C and SIGTERM in code 130."""
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
        if peers.failed():
            leave(2)  # torchrun ends the others
        if peers.is_main:
            click.echo("error: interrupted", err=True)
        leave(130)
    except RuntimeError:
        if not peers.failed(patience=2):
            raise
        leave(2)  # a connection broke


def fail(message: str, peers: SingleProcess) -> None:
    """Print an error line, in one of the processes that come here with it, and exit with code 2."""
    if peers.first_to_fail(message):
        start = "" if peers.is_main else "\n"  # where the main process's progress bar may stand
        click.echo(f"{start}error: {' '.join(message.split())}", err=True)
    sys.exit(2)


def with_flags(message: str, command: click.Command) -> str:
    """A message of the library, which names arguments as `name`, with the flags that set them."""
    flags: dict[str, str] = {}
    for one in [command, *getattr(command, "commands", {}).values()]:
        flags |= {parameter.name: parameter.opts[0] for parameter in one.params if parameter.name}
    return re.sub(r"`(\w+)`", lambda match: flags.get(match[1], match[1]), message)


def leave(code: int) -> None:
    """Exit without waiting for threads, whose results nobody wants any more."""
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
                self.fail(f"the range {part!r} runs backwards", param, ctx)
            if len(numbers) + last - first >= _MOST_NUMBERS:
                self.fail(f"{value!r} are more than {_MOST_NUMBERS} numbers", param, ctx)
            numbers.extend(range(first, last + 1))
        return numbers


class NumberList(click.ParamType):
    """A comma-separated list of numbers of one type: `1,2,2` -> [1, 2, 2]."""

    name = "list"

    def __init__(self, number: type = int):
        self.number = number

    def convert(self, value, param, ctx):
        if isinstance(value, list):
            return value
        try:
            return [self.number(part) for part in str(value).split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a comma-separated list of {self.number.__name__}s", param, ctx)


class Count(click.IntRange):
    """A whole number from 1 on, or from `min`."""

    name = "int"

    def __init__(self, min: int = 1):
        super().__init__(min=min)

    def _describe_range(self) -> str:
        return ""  # help says what a number means; that it is not negative goes without saying


class FloatRange(click.FloatRange):
    """A finite number in a range; click's own lets `nan` through."""

    name = "number"

    def _describe_range(self) -> str:
        return ""

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Size(click.ParamType):
    """A picture size `WxH` -> (width, height)."""

    name = "WxH"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)x(\d+)", str(value))
        if match is None or 0 in (int(match[1]), int(match[2])):
            self.fail(f"{value!r} is not a size like 32x32", param, ctx)
        return int(match[1]), int(match[2])
