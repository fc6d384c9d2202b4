"""What all command lines share: exit codes, one-line errors, and the value formats of the EDM family.

Read next: `config.py`.
"""

import re
import sys

import click

from dnnlib.errors import UserError


def run(command: click.Command, args: list[str] | None = None) -> None:
    """Run a click command; bad input ends in one line on stderr and exit code 2, Ctrl-C in code 130."""
    try:
        code = command.main(args=args, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except UserError as error:
        message, code = str(error), 2
    except click.ClickException as error:
        message, code = error.format_message(), 2
    except click.exceptions.Abort:
        message, code = "interrupted", 130
    click.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(code)


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
