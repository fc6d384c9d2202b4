"""Pseudoinverse guidance."""

from torch import Tensor

from elucid.training.guidance.inverse.base import PosteriorDenoiser, Pull, require_positive, require_solver, solved
from elucid.training.inverse.problem import InverseProblem, Observation


class PseudoinverseGuidance(PosteriorDenoiser):
    """D + sigma^2 J^T A^T (r^2 A A^T + s^2)^-1 (y - A D), J = dD/dx (Song et al. 2023, ICLR, section 3).

    s^2 is the variance of y. x0 | x is taken to be N(D, r^2), r^2 = sigma^2 d^2 / (sigma^2 + d^2), d = `data_std` the
    deviation of normalised images: exact for data ~ N(mean, d^2). Raises UserError for impossible options.
    """

    def __init__(
        self,
        denoiser,
        problem: InverseProblem,
        data_std: float = 0.5,
        tolerance: float = 1e-6,
        iterations: int = 100,
    ):
        super().__init__(denoiser, problem)
        require_positive(data_std=data_std)
        require_solver(tolerance, iterations)
        self.data_std, self.tolerance, self.iterations = data_std, tolerance, iterations

    def change(self, x0: Tensor, sigma: Tensor, seen: Observation, pull: Pull) -> Tensor:
        variance = sigma**2 * self.data_std**2 / (sigma**2 + self.data_std**2)

        def project(v: Tensor) -> Tensor:
            return variance * self.problem.adjoint(v)

        v = solved(self.problem, x0, seen, project, self.tolerance, self.iterations)
        return sigma**2 * pull(self.problem.adjoint(v))
