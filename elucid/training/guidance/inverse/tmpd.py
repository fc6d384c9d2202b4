"""Tweedie moment projection: the covariance that belongs to the denoiser."""

from torch import Tensor

from elucid.training.guidance.inverse.base import PosteriorDenoiser, Pull, require_solver, solved
from elucid.training.inverse.problem import InverseProblem, Observation


class TweedieMomentProjection(PosteriorDenoiser):
    """D + C A^T (A C A^T + s^2)^-1 (y - A D), C = Cov[x0 | x] = sigma^2 dD/dx (Boys et al. 2023, arXiv 2310.06721).

    s^2 is the variance of y. Exact for Gaussian data, as then x0 | x is N(D, C). C is not formed: conjugate gradients
    ask for C v, as in Rozet et al. 2024, arXiv 2405.13712, one backward pass each. That is J^T v, the same as J v for
    the symmetric Jacobian J of a posterior mean; a forward derivative would cost a whole pass, without fused kernels.
    That of a network is not quite symmetric, so the best of few `iterations`, at most so many for each call of the
    denoiser, is taken; `tolerance` is relative to |y - A D|. Raises UserError for impossible options.
    """

    def __init__(self, denoiser, problem: InverseProblem, tolerance: float = 1e-3, iterations: int = 10):
        super().__init__(denoiser, problem)
        require_solver(tolerance, iterations)
        self.tolerance, self.iterations = tolerance, iterations

    def change(self, x0: Tensor, sigma: Tensor, seen: Observation, pull: Pull) -> Tensor:
        def project(v: Tensor) -> Tensor:
            return sigma**2 * pull(self.problem.adjoint(v))

        return project(solved(self.problem, x0, seen, project, self.tolerance, self.iterations))
