"""Checks that an operator is linear and its adjoint is one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.inverse.operators.base import LinearOperator

TOLERANCE = 1e-5
"""Relative to the size of such numbers; lets operators pass that compute in float32 inside."""

SAMPLES = 2
"""More than one, so that an operator that mixes the samples of a batch is found."""


def operator_name(operator: LinearOperator) -> str:
    """Return the name of an operator in messages."""
    return getattr(operator, "config", {}).get("name") or type(operator).__name__


def require_adjoint(operator: LinearOperator, shape: Sequence[int], seed: int = 0) -> None:
    """Raise UserError unless <A u, y> = <u, A^T y> for random u, y of each sample, in float64, for images [C,H,W]."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(SAMPLES, *shape, generator=random, dtype=torch.float64)
    name, measured = operator_name(operator), called(operator, "__call__", images)
    y = torch.randn(measured.shape, generator=random, dtype=torch.float64)
    back = called(operator, "adjoint", y)
    if back.shape != images.shape:
        raise UserError(
            f"`operator`: the adjoint of {name} returned {list(back.shape)} for images of {list(images.shape)}; "
            "return their shape"
        )
    # As large as products of independent random numbers are: |A u| |y| itself grows faster with the size of images.
    sizes = 30 * measured.flatten(1).norm(dim=1) * y.flatten(1).norm(dim=1) / y[0].numel() ** 0.5
    for one, other, size in zip(dot(measured, y), dot(images, back), sizes.tolist(), strict=True):
        if not abs(one - other) <= TOLERANCE * size:
            raise UserError(
                f"`operator`: the adjoint of {name} is none: <A u, y> = {one:.6g}, <u, A^T y> = {other:.6g}; "
                "correct its adjoint(y)"
            )


def require_linear(operator: LinearOperator, shape: Sequence[int], seed: int = 0) -> None:
    """Raise UserError unless A (2 u - 3 v) = 2 A u - 3 A v for random u, v, in float64, for images [C,H,W]."""
    random = torch.Generator().manual_seed(seed)
    u, v = torch.randn(2, SAMPLES, *shape, generator=random, dtype=torch.float64)
    whole = called(operator, "__call__", 2 * u - 3 * v)
    parts = 2 * called(operator, "__call__", u) - 3 * called(operator, "__call__", v)
    error, size = float((whole - parts).norm()), float(parts.norm())
    if not error <= TOLERANCE * size:
        raise UserError(
            f"`operator`: {operator_name(operator)} is not linear: |A (2 u - 3 v) - (2 A u - 3 A v)| is {error:.3g}, "
            f"|2 A u - 3 A v| {size:.3g}; leave out offsets and clipping"
        )


def called(operator: LinearOperator, method: str, argument: Tensor) -> Tensor:
    """Return what a method makes of float64 samples. Raises UserError if it fails, or returns something else."""
    place = f"`operator`: {method} of {operator_name(operator)}"
    try:
        result = operator(argument) if method == "__call__" else operator.adjoint(argument)
    except UserError:
        raise
    except Exception as error:  # of code from outside
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise UserError(f"{place} fails for float64 of {list(argument.shape)}: {reason}") from error
    if not isinstance(result, Tensor) or not result.is_floating_point() or result.shape[:1] != argument.shape[:1]:
        what = f"{result.dtype} {list(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        raise UserError(f"{place} returned {what} for {list(argument.shape)}; return real numbers for each sample")
    return result.to(torch.float64)


def dot(a: Tensor, b: Tensor) -> list[float]:
    """Return the inner product of each sample."""
    return (a * b).flatten(1).sum(1).tolist()
