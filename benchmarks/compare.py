"""Ratios of two results of `make bench`, row by row: how much faster B is than A.

    python benchmarks/compare.py A.json B.json

Rows are those with the same network, precision, batch and compilation in both. Ratios above 1 are better for B; of
memory, launches and seconds, too. Both should come from the same machine: another one is said first.
"""

import json
import sys
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from elucid.dnnlib import cli  # noqa: E402
from elucid.dnnlib.errors import UserError  # noqa: E402

KEY = ("arch", "precision", "batch", "compile")
MORE, LESS = ("train_img_s", "sample_img_s", "train_share", "sample_share"), ("peak_gib", "first_step_s", "launches")


def ratio(before: dict, after: dict, name: str) -> float | None:
    """How much better `name` has become; None if one of the two lacks it."""
    old, new = before.get(name), after.get(name)
    if not old or not new:
        return None
    return new / old if name in MORE else old / new


def ratios(one: dict, other: dict) -> list[dict]:
    """The rows of both results, with their ratios."""
    rows = {tuple(row[name] for name in KEY): row for row in one["rows"]}
    found = []
    for row in other["rows"]:
        key = tuple(row[name] for name in KEY)
        if key in rows:
            values = {name: ratio(rows[key], row, name) for name in (*MORE, *LESS)}
            found.append(dict(zip(KEY, key, strict=True)) | values)
    return found


def read(path: str) -> dict:
    try:
        content = json.loads(Path(path).read_text())
        return {"machine": content["machine"], "rows": content["rows"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is not a result of benchmarks/bench.py ({error}); give one of its --out files"
        ) from error


@click.command()
@click.argument("before")
@click.argument("after")
def main(before, after):
    """Print the table of ratios."""
    one, other = read(before), read(after)
    if one["machine"] != other["machine"]:
        click.echo(f"not the same machine or versions: {one['machine']} and {other['machine']}")
    rows = ratios(one, other)
    if not rows:
        raise UserError(f"{before} and {after} have no row in common; measure the same networks and precisions")
    names = [*MORE, *LESS]
    click.echo("| " + " | ".join([*KEY, *names]) + " |")
    click.echo("|" + "---|" * (len(KEY) + len(names)))
    for row in rows:
        cells = ["" if row[name] is None else f"{row[name]:.2f}" for name in names]
        click.echo("| " + " | ".join([*(str(row[name]) for name in KEY), *cells]) + " |")


if __name__ == "__main__":
    cli.run(main)
