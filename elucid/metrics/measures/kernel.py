"""The kernel distance, an unbiased squared maximum mean discrepancy."""

import math

import torch
from torch import Tensor

BLOCK = 5000
"""Images of the smaller set in a block: larger sets are cut into disjoint blocks, which bounds the time."""

ROWS = 512
"""Rows of a kernel matrix that are in memory at once."""


def kernel_distance(a: Tensor, b: Tensor, block: int = BLOCK) -> tuple[float, float]:
    """Unbiased squared MMD of features [N,D] and [M,D] for the kernel (x.y / D + 1)^3, and its standard error.

    The KID of Bińkowski et al. 2018 (arXiv 1801.01401), computed by the U-statistic of Gretton et al. 2012, eq. 3. Sets
    of at least twice `block` images are cut into disjoint blocks of at least so many, every g-th image into the same,
    and the estimates are averaged (Zaremba et al. 2013). It can be negative. The standard error is that of the
    jackknife over single images of both sets (Arvesen 1969), infinite below 3 images.
    """
    blocks = max(1, min(len(a), len(b)) // block)
    parts = [_of_block(a[start::blocks], b[start::blocks]) for start in range(blocks)]
    value = math.fsum(value for value, _ in parts) / blocks
    return value, math.sqrt(math.fsum(variance for _, variance in parts)) / blocks


def _of_block(a: Tensor, b: Tensor) -> tuple[float, float]:
    """The U-statistic and its jackknife variance, from row sums of the kernel matrices."""
    n, m = len(a), len(b)
    a, b = a.double(), b.double()
    own_a, own_b = _own_sums(a), _own_sums(b)
    cross_a, cross_b = _cross_sums(a, b)

    def own(total, count):
        return total / (count * (count - 1))

    rest = own(own_b.sum(), m)
    value = own(own_a.sum(), n) + rest - 2 * cross_a.sum() / (n * m)
    if min(n, m) < 3:
        return float(value), math.inf
    without_a = own(own_a.sum() - 2 * own_a, n - 1) + rest - 2 * (cross_a.sum() - cross_a) / ((n - 1) * m)
    rest = own(own_a.sum(), n)
    without_b = own(own_b.sum() - 2 * own_b, m - 1) + rest - 2 * (cross_b.sum() - cross_b) / ((m - 1) * n)
    variance = sum((x - x.mean()).square().sum() * (len(x) - 1) / len(x) for x in (without_a, without_b))
    return float(value), float(variance)


def _own_sums(a: Tensor) -> Tensor:
    """Sum the kernel of each row of `a` with all others, f64[N]; each pair is computed once."""
    sums = -_kernel(a.square().sum(1), a.shape[1])
    for start in range(0, len(a), ROWS):
        part = slice(start, start + ROWS)
        values = _kernel(a[part] @ a[start:].T, a.shape[1])
        sums[part] += values.sum(1)
        sums[start + ROWS :] += values[:, ROWS:].sum(0)
    return sums


def _cross_sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Sum the kernel of each row of `a` with all rows of `b`, f64[N], and the reverse, f64[M]."""
    rows, columns = [], torch.zeros(len(b), dtype=torch.float64, device=b.device)
    for part in a.split(ROWS):
        values = _kernel(part @ b.T, a.shape[1])
        rows.append(values.sum(1))
        columns += values.sum(0)
    return torch.cat(rows), columns


def _kernel(products: Tensor, dim: int) -> Tensor:
    base = products.div_(dim).add_(1)
    return base * base * base
