"""A proximal step on the estimate of the denoiser."""

from torch import Tensor

from elucid.training.guidance.inverse.base import PosteriorDenoiser, Pull, require_positive, require_solver, solved
from elucid.training.inverse.problem import InverseProblem, Observation


class DiffPIR(PosteriorDenoiser):
    """argmin_x |y - A x|^2 / s^2 + weight |x - D|^2 / sigma^2 (Zhu et al. 2023, arXiv 2305.08995).

    s^2 is the variance of y; so x0 | x is taken to be N(D, sigma^2 / weight), and the solution is D + r^2 A^T
    (r^2 A A^T + s^2)^-1 (y - A D), r^2 = sigma^2 / weight, by conjugate gradients. `weight` is the paper's lambda; its
    zeta, noise drawn anew, is the sampler's (`S_churn`, `sde`). Raises UserError for impossible options.
    """

    differentiated = False

    def __init__(
        self,
        denoiser,
        problem: InverseProblem,
        weight: float = 1.0,
        tolerance: float = 1e-6,
        iterations: int = 100,
    ):
        super().__init__(denoiser, problem)
        require_positive(weight=weight)
        require_solver(tolerance, iterations)
        self.weight, self.tolerance, self.iterations = weight, tolerance, iterations

    def change(self, x0: Tensor, sigma: Tensor, seen: Observation, pull: Pull) -> Tensor:
        def project(v: Tensor) -> Tensor:
            return sigma**2 / self.weight * self.problem.adjoint(v)

        return project(solved(self.problem, x0, seen, project, self.tolerance, self.iterations))
