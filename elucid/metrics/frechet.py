"""The Fréchet distance between two Gaussians."""

import torch
from torch import Tensor

# Eigenvalues below this fraction of the largest are zeros with rounding errors; their square roots would increase the
# error from 1e-16 to 1e-8 each. Measured at 2048 dimensions; the usual bound D * eps would drop true eigenvalues of
# Inception features.
RELATIVE_ZERO = 16 * torch.finfo(torch.float64).eps


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared Fréchet distance |m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)) (Dowson & Landau 1982), at least 0.

    With A = L L^T, the product A B has the same eigenvalues as the symmetric L^T B L, and their square roots sum to
    tr (A B)^(1/2). No general matrix square root is needed, and A and B may be singular. Means [D] and covariances
    [D,D] are converted to float64.
    """
    mean_a, cov_a, mean_b, cov_b = (value.detach().cpu().double() for value in (mean_a, cov_a, mean_b, cov_b))
    factor = symmetric_factor(cov_a)
    eigenvalues = torch.linalg.eigvalsh(factor.T @ cov_b @ factor)
    root_trace = eigenvalues[nonzero(eigenvalues)].sqrt().sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * root_trace
    return max(float(distance), 0.0)


def symmetric_factor(covariance: Tensor) -> Tensor:
    """Return L with L L^T = covariance [D,D]: the Cholesky factor if it exists, else [D,rank] from eigenvectors."""
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if not failed:
        return factor
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    kept = nonzero(eigenvalues)
    return vectors[:, kept] * eigenvalues[kept].sqrt()


def nonzero(eigenvalues: Tensor) -> Tensor:
    """Return a mask of the eigenvalues that are positive beyond rounding errors."""
    return eigenvalues > eigenvalues.max().clamp_min(0) * RELATIVE_ZERO if len(eigenvalues) else eigenvalues > 0
