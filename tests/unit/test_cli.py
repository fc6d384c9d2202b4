"""Command lines: list formats, one-line errors, exit codes."""

import click
import pytest

from elucid.dnnlib import cli
from elucid.dnnlib.errors import UserError


@click.command()
@click.option("--seeds", type=cli.IntRange(), default="0")
@click.option("--size", type=cli.Size())
@click.option("--fail", is_flag=True)
def command(seeds, size, fail):
    if fail:
        raise UserError("this\nand that")
    click.echo(f"{seeds} {size}")


def run(*args) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.run(command, list(args))
    return stop.value.code


def test_values(capsys):
    assert run("--seeds=1,2,5-8", "--size=32x16") == 0
    assert capsys.readouterr().out.strip() == "[1, 2, 5, 6, 7, 8] (32, 16)"


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["--seeds=1,x"], "not a list like"),
        (["--seeds=5-1"], "is reversed"),
        (["--seeds=0-9999999999"], "more than 100000000 numbers"),
        (["--size=0x4"], "not a size like 32x32"),
        (["--sede=1"], "No such option"),
        (["--fail"], "this and that"),
    ],
)
def test_bad_input_is_one_line_and_code_2(args, text, capsys):
    assert run(*args) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and text in captured.err
    assert captured.err.count("\n") == 1
