"""Precision, recall, density and coverage: which images lie in the neighbourhoods of the others."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError

K_PRECISION, K_DENSITY = 3, 5
CHUNK = 1 << 23
"""Distances that are in memory at once."""

SAME = 1e-5
"""Relative differences of features below this are rounding errors of float32."""


@dataclass(frozen=True)
class Neighbourhoods:
    """Membership of images in balls around the images of the other set, each as far as its k-th nearest of its own set.

    With k = 3: `inside` bool[N], generated images in a ball of any reference image, and `found` bool[M], the reverse.
    With k = 5: `balls` i64[N], of how many reference balls a generated image is part, and `covered` i64[M], how many
    generated images a reference ball holds; `sole` i64[N] counts the balls that hold this generated image alone.
    """

    inside: Tensor
    found: Tensor
    balls: Tensor
    covered: Tensor
    sole: Tensor

    @property
    def precision(self) -> float:
        """The part of the generated images that lie where reference images do, 0 to 1 (Kynkäänniemi et al. 2019)."""
        return float(self.inside.double().mean())

    @property
    def recall(self) -> float:
        """The part of the reference images that lie where generated images do, 0 to 1 (Kynkäänniemi et al. 2019)."""
        return float(self.found.double().mean())

    @property
    def density(self) -> float:
        """Reference balls that hold a generated image, on average, divided by k; may exceed 1 (Naeem et al. 2020)."""
        return float(self.balls.double().mean() / K_DENSITY)

    @property
    def coverage(self) -> float:
        """The part of the reference balls that hold a generated image, 0 to 1 (Naeem et al. 2020)."""
        return float((self.covered > 0).double().mean())

    @property
    def density_error(self) -> float:
        """Standard error of the density over generated images, the reference fixed."""
        return float(self.balls.double().std() / K_DENSITY / math.sqrt(len(self.balls)))

    @property
    def coverage_error(self) -> float:
        """Standard error of the coverage by the jackknife over generated images, the reference fixed.

        Its expectation is not below the true variance (Efron & Stein 1981).
        """
        num, lost = len(self.sole), self.sole.double() / len(self.covered)
        return float(((num - 1) / num * (lost - lost.mean()).square().sum()).sqrt())


def neighbourhoods(reference: Tensor, generated: Tensor, k: int = K_DENSITY) -> Neighbourhoods:
    """Compute the neighbourhoods of reference features [M,D] and generated [N,D], in float64 and in chunks.

    Precision and recall by Kynkäänniemi et al. 2019 (arXiv 1904.06991), density and coverage by Naeem et al. 2020
    (arXiv 2002.09797), all with closed balls. `k` is the largest that is needed: with 3, density and coverage are of
    that k and mean nothing. Raises UserError for too few images, or if all are the same.
    """
    for features, what in ((reference, "reference"), (generated, "generated")):
        require_neighbours(features, k, what)
    shift = reference.double().mean(0)  # smaller norms, smaller rounding errors
    reference, generated = reference.double() - shift, generated.double() - shift
    radii, radii_generated = _radii(reference, k), _radii(generated, k)
    near, far, own = radii[:, K_PRECISION - 1], radii[:, k - 1], radii_generated[:, K_PRECISION - 1]
    inside, balls, holder = [], [], torch.zeros(len(reference), dtype=torch.int64, device=reference.device)
    found, covered = torch.zeros_like(holder, dtype=torch.bool), torch.zeros_like(holder)
    for start, distances in _distances(generated, reference):
        rows = slice(start, start + len(distances))
        inside.append((distances <= near).any(1))
        found |= (distances <= own[rows, None]).any(0)
        member = distances <= far
        balls.append(member.sum(1))
        covered += member.sum(0)
        holder = torch.where(member.any(0), start + member.to(torch.uint8).argmax(0), holder)
    sole = torch.bincount(holder[covered == 1], minlength=len(generated))
    return Neighbourhoods(torch.cat(inside), found, torch.cat(balls), covered, sole)


def require_neighbours(features: Tensor, k: int, what: str) -> None:
    """Raise UserError unless the images have k neighbours, and are not all the same."""
    if len(features) <= k:
        raise UserError(
            f"{len(features)} {what} images have no {k} neighbours each; give at least {k + 1}, better thousands"
        )
    spread = (features - features[0]).abs().max()
    if spread <= SAME * features.abs().max():
        raise UserError(
            f"all {len(features)} {what} images have the same features, and neighbourhoods of no size; "
            "give different images, or only `metrics`=fid"
        )


def _distances(a: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield squared distances f64[rows,M] of parts of a [N,D] to b [M,D], and the number of each part's first row."""
    norms, size = b.square().sum(1), max(1, CHUNK // len(b))
    for start in range(0, len(a), size):
        part = a[start : start + size]
        products = torch.addmm(norms, part, b.T, alpha=-2)
        yield start, products.add_(part.square().sum(1, keepdim=True)).clamp_min_(0)


def _radii(features: Tensor, k: int) -> Tensor:
    """Squared distances of each image to its 1st to k-th nearest other image, f64[N,k]."""
    radii = []
    for start, distances in _distances(features, features):
        rows = torch.arange(len(distances), device=features.device)
        distances[rows, start + rows] = math.inf
        radii.append(distances.topk(k, dim=1, largest=False).values)
    return torch.cat(radii)
