"""Resolves the classes of samples from numbers or names, and names their folders."""

import re
from collections import Counter
from collections.abc import Sequence

from elucid.dnnlib.errors import UserError, did_you_mean


def class_numbers(
    classes: int | str | Sequence[int | str] | None, label_dim: int, class_names: Sequence[str] | None = None
) -> int | list[int] | None:
    """Convert classes given by number or name to numbers. Raises UserError for classes that the model does not have."""
    if classes is None:
        return None
    if not label_dim:
        raise UserError(f"`classes`={classes}: the model was trained without classes; leave `classes` out")
    if isinstance(classes, int | str):
        return _number(classes, label_dim, class_names or ())
    return [_number(one, label_dim, class_names or ()) for one in classes]


def _number(given: int | str, label_dim: int, names: Sequence[str]) -> int:
    if isinstance(given, str) and given in names:  # first, as names may be digits
        return list(names).index(given)
    try:
        number = int(given)
    except ValueError:
        raise UserError(f"`classes`={given} is not one of the model's classes{_known(given, names)}") from None
    if not 0 <= number < label_dim:
        raise UserError(f"`classes`={number} is out of range; the model has the classes 0 to {label_dim - 1}")
    return number


def _known(given: str, names: Sequence[str]) -> str:
    if not names:
        return "; the snapshot has no class names: give a number"
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return did_you_mean(given, names) + f"; there are {shown}"


def class_of_each(seeds: Sequence[int], classes: int | Sequence[int] | None) -> dict[int, int] | None:
    """Return the class of each seed, or None if the seeds have no list of them. Raises UserError for another length."""
    if classes is None or isinstance(classes, int):
        return None
    if len(classes) != len(seeds):
        raise UserError(f"`classes` has {len(classes)} entries for {len(seeds)} seeds; give one each, or one for all")
    return dict(zip(seeds, classes, strict=True))


def seeds_per_class(per_class: int, label_dim: int, seeds: Sequence[int] | None) -> tuple[list[int], list[int]]:
    """Return seeds and classes of `per_class` images of each class: class c has the seeds from start + c per_class on.

    `start` is the only one of `seeds`, or 0. Raises UserError for more seeds, and for a model without classes.
    """
    if not label_dim:
        raise UserError("`per_class`: the model was trained without classes; leave `per_class` out")
    if per_class < 1:
        raise UserError(f"`per_class`={per_class} leaves no images; give the number of images of each class")
    if seeds is not None and len(seeds) != 1:
        raise UserError(
            f"`per_class` takes {per_class} seeds for each class from the first on; give only that as `seeds`"
        )
    start = seeds[0] if seeds else 0
    return list(range(start, start + per_class * label_dim)), [c for c in range(label_dim) for _ in range(per_class)]


def class_folders(label_dim: int, names: Sequence[str] | None) -> list[str]:
    """Return a folder for each class: its name, with _ for what file systems do not take, or else class_0003.

    Names that are the same then, also in lower case, get their number at the end.
    """
    numbered = [f"class_{number:04d}" for number in range(label_dim)]
    if not names or len(names) != label_dim:
        return numbered
    safe = [re.sub(r"[^\w .,+()-]", "_", name)[:100].strip(" .") or "class" for name in names]
    lower = ["dataset.json", "__macosx", *(name.lower() for name in safe)]
    counts = Counter(lower)
    safe = [f"{name}_{n:04d}" if counts[name.lower()] > 1 or name == "class" else name for n, name in enumerate(safe)]
    return safe if len({name.lower() for name in safe}) == label_dim else numbered
