"""Resolves the classes of samples from numbers or names."""

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
