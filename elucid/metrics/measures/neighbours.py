"""Precision, recall, density and coverage: which images lie in the neighbourhoods of the others."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar

K_PRECISION, K_DENSITY = 3, 5
TILE = 2048
"""Images of each set whose distances are in memory at once."""

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
    """Compute the neighbourhoods of reference features [M,D] and generated [N,D], in float64 and in tiles.

    Precision and recall by Kynkäänniemi et al. 2019 (arXiv 1904.06991), density and coverage by Naeem et al. 2020
    (arXiv 2002.09797), all with closed balls. `k` is the largest that is needed: with 3, density and coverage are of
    that k and mean nothing. Raises UserError for too few images, or if all are the same.
    """
    for features, what in ((reference, "reference"), (generated, "generated")):
        require_neighbours(features, k, what)
    # Smaller norms, smaller rounding errors.
    shift = sum(part.double().sum(0) for part in reference.split(TILE)) / len(reference)
    rows, columns = range(0, len(generated), TILE), range(0, len(reference), TILE)
    pairs = len(rows) * len(columns) + sum(len(one) * (len(one) + 1) // 2 for one in (rows, columns))
    with progress_bar(total=pairs, desc="neighbourhoods", unit="tile", delay=2) as bar:
        radii, radii_generated = _radii(reference, shift, k, bar), _radii(generated, shift, k, bar)
        near, far, own = radii[:, K_PRECISION - 1], radii[:, k - 1], radii_generated[:, K_PRECISION - 1]
        holder, covered = (torch.zeros(len(reference), dtype=torch.int64, device=reference.device) for _ in range(2))
        found, balls = torch.zeros_like(holder, dtype=torch.bool), torch.zeros_like(holder[:1]).repeat(len(generated))
        inside = torch.zeros_like(balls, dtype=torch.bool)
        for start in rows:
            a, part = _tile(generated, start, shift), slice(start, start + TILE)
            for other in columns:
                distances, balls_of = _distances(a, _tile(reference, other, shift)), slice(other, other + TILE)
                inside[part] |= (distances <= near[balls_of]).any(1)
                found[balls_of] |= (distances <= own[part, None]).any(0)
                member = distances <= far[balls_of]
                balls[part] += member.sum(1)
                covered[balls_of] += member.sum(0)
                first = start + member.to(torch.uint8).argmax(0)
                holder[balls_of] = torch.where(member.any(0), first, holder[balls_of])
                bar.update()
    sole = torch.bincount(holder[covered == 1], minlength=len(generated))
    return Neighbourhoods(inside, found, balls, covered, sole)


def require_neighbours(features: Tensor, k: int, what: str) -> None:
    """Raise UserError unless the images have k neighbours, and are not all the same."""
    if len(features) <= k:
        raise UserError(
            f"{len(features)} {what} images have no {k} neighbours each; give at least {k + 1}, better thousands"
        )
    parts = features.split(TILE)
    spread = max(float((part - features[0]).abs().max()) for part in parts)
    if spread <= SAME * max(float(part.abs().max()) for part in parts):
        raise UserError(
            f"all {len(features)} {what} images have the same features, and neighbourhoods of no size; "
            "give different images, or only `metrics`=fid"
        )


def _radii(features: Tensor, shift: Tensor, k: int, bar) -> Tensor:
    """Squared distances of each image to its 1st to k-th nearest other image, f64[N,k]."""
    nearest = torch.full((len(features), k), math.inf, dtype=torch.float64, device=features.device)
    for start in range(0, len(features), TILE):
        a = _tile(features, start, shift)
        for other in range(start, len(features), TILE):
            distances = _distances(a, _tile(features, other, shift))
            if other == start:
                distances.fill_diagonal_(math.inf)
            else:  # what is near to one is near to the other
                _keep_nearest(nearest[other : other + TILE], distances.T)
            _keep_nearest(nearest[start : start + TILE], distances)
            bar.update()
    return nearest


def _keep_nearest(nearest: Tensor, distances: Tensor) -> None:
    """Merge distances [rows,M] into the smallest so far [rows,k], in place."""
    nearest.copy_(torch.cat([nearest, distances], 1).topk(nearest.shape[1], dim=1, largest=False).values)


def _tile(features: Tensor, start: int, shift: Tensor) -> Tensor:
    return features[start : start + TILE].double() - shift


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances f64[N,M] of a [N,D] to b [M,D]."""
    products = torch.addmm(b.square().sum(1), a, b.T, alpha=-2)
    return products.add_(a.square().sum(1, keepdim=True)).clamp_min_(0)
