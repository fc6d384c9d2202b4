"""The Fréchet distance between two Gaussians. Read next: `reference.py`, which keeps one of them."""

import torch
from torch import Tensor


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared Fréchet distance |m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)) (Dowson & Landau 1982), at least 0.

    With A = L L^T the product A B has the eigenvalues of the symmetric L^T B L, whose square roots sum to the trace
    of (A B)^(1/2); no general matrix square root is taken, and A and B may be singular.
    Means [D], covariances [D,D], taken to float64.
    """
    mean_a, cov_a, mean_b, cov_b = (value.detach().cpu().double() for value in (mean_a, cov_a, mean_b, cov_b))
    factor = symmetric_factor(cov_a)
    product = factor.T @ cov_b @ factor
    eigenvalues = torch.linalg.eigvalsh(product)
    root_trace = _positive(eigenvalues).sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * root_trace
    return max(float(distance), 0.0)


def symmetric_factor(covariance: Tensor) -> Tensor:
    """L [D,r] with L L^T = covariance [D,D], where r is its rank."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    kept = _positive(eigenvalues)
    return vectors[:, -len(kept) :] * kept.sqrt() if len(kept) else vectors[:, :0]


def _positive(eigenvalues: Tensor) -> Tensor:
    """Those of ascending eigenvalues that rounding cannot have made of zero: the root would enlarge its error."""
    if not len(eigenvalues):
        return eigenvalues
    threshold = eigenvalues[-1].clamp_min(0) * len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps
    return eigenvalues[eigenvalues > threshold]
