"""Recipes to compare: a preset, flags of train.py, a file with flags, or runs that are finished."""

import glob
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elucid.dnnlib.errors import UserError, did_you_mean
from elucid.training.config.presets.table import PRESETS

OWN = {
    **dict.fromkeys(("outdir", "nosubdir", "resume", "desc", "experiment_name", "dry-run", "n"), "leave it out"),
    "seed": "give the first one by `seed`",
}
"""Flags of train.py that the comparison sets itself, and what to do instead."""
MOST = 20


@dataclass(frozen=True)
class Recipe:
    """A way to train, as flags of train.py, or else the run folders of its finished trainings."""

    name: str
    flags: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()

    def given(self, flag: str) -> str | None:
        """Return the value of a flag `--flag=VALUE`; None if it is not there."""
        values = [one.partition("=")[2] for one in self.flags if one.startswith(f"--{flag}=")]
        return values[-1] if values else None


def recipes_of(texts: Sequence[str]) -> list[Recipe]:
    """Return the recipes. Raises UserError if there are not at least two, or for a name that is there twice."""
    if len(texts) < 2:
        raise UserError(f"{len(texts)} `recipes`; give at least two to compare, each in quotes")
    if len(texts) > MOST:
        raise UserError(f"{len(texts)} `recipes`; give at most {MOST}")
    recipes = [recipe_of(text) for text in texts]
    names = [recipe.name for recipe in recipes]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two recipes are named {name}; name them: 'one: ...' 'other: ...'")
    return recipes


def recipe_of(text: str) -> Recipe:
    """Return the recipe of a text.

    It is a preset's name, a list of flags, a file that holds them, or run folders, separated by commas or as a pattern;
    `NAME: ` before it names it. Raises UserError for anything else.
    """
    named = re.fullmatch(r"\s*([\w.+-]+):\s+(.+?)\s*", text, re.DOTALL)
    name, body = (named[1], named[2]) if named else (None, text.strip())
    if body.startswith("-"):
        return Recipe(name or slug(body), require_free(_split(body, text), name or body))
    if body in PRESETS:
        return Recipe(name or body, (f"--preset={body}",))
    if Path(body).is_file() and not body.endswith(".pkl"):
        content = Path(body).read_text(encoding="utf-8", errors="replace")
        return Recipe(name or slug(Path(body).stem), require_free(_split(content, body), body))
    runs = [path for part in body.split(",") for path in _runs(part.strip())]
    if not runs:
        raise UserError(
            f"recipe {body!r} is neither a preset{did_you_mean(body, PRESETS)}, flags that start with --, a file nor a "
            "run folder; see the presets in train.py --help"
        )
    return Recipe(name or slug(Path(body.partition(",")[0]).name), runs=require_runs(runs))


def require_free(flags: Sequence[str], name: str) -> tuple[str, ...]:
    """Return the flags. Raises UserError if there are none, or if one is set by the comparison."""
    if not flags:
        raise UserError(f"recipe {name} has no flags; give at least --preset=NAME")
    for flag in flags:
        plain = flag.partition("=")[0].lstrip("-").replace("experiment-name", "experiment_name")
        if flag.startswith("-") and plain in OWN:
            raise UserError(f"recipe {name}: {flag} is set by the comparison; {OWN[plain]}")
    return tuple(flags)


def require_runs(paths: Sequence[str]) -> tuple[str, ...]:
    """Return the runs. Raises UserError for a folder without a snapshot, or one that is there twice."""
    for path in paths:
        if Path(path).is_dir() and not any(Path(path).glob("network-snapshot-*.pkl")):
            raise UserError(f"{path} holds no network-snapshot-*.pkl; give the folder of a finished run")
    places = [Path(path).resolve() for path in paths]
    for path in paths:
        if places.count(Path(path).resolve()) > 1:
            raise UserError(f"the run {path} is there twice; each training counts once")
    return tuple(paths)


def slug(text: str) -> str:
    """Return a short name for a folder and a table."""
    return re.sub(r"[^\w.+]+", "-", text.replace("--preset=", "").replace("--", " ")).strip("-.")[:60] or "recipe"


def _split(text: str, name: str) -> list[str]:
    try:
        return shlex.split(text, comments=True)
    except ValueError as error:
        raise UserError(f"recipe {name}: {error}; check its quotes") from error


def _runs(pattern: str) -> list[str]:
    if Path(pattern).is_dir() or (pattern.endswith(".pkl") and Path(pattern).is_file()):
        return [pattern]
    return sorted(path for path in glob.glob(pattern) if Path(path).is_dir())
