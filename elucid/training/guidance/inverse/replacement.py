"""Replacement of what is known of the image."""

from torch import Tensor

from elucid.training.guidance.inverse.base import PosteriorDenoiser, Pull, require_solver, solved
from elucid.training.inverse.problem import InverseProblem, Observation


class Replacement(PosteriorDenoiser):
    """D + A^+ (y - A D): what is known of the image is y itself (Song et al. 2021, arXiv 2011.13456, appendix I.2).

    With x0 = y the sampler carries the known part of x along y + sigma n, n its own noise: that of the seed, drawn anew
    as far as the sampler adds noise. So nothing is drawn here, and a seed is an image. Going back in time to
    harmonise the parts (RePaint, Lugmayr et al. 2022) is `S_churn`. For any A it is the null-space form (DDNM, Wang et
    al. 2022, arXiv 2212.00490). A^+ = A^T (A A^T + s^2)^-1 is the pseudoinverse if y has no noise, s = 0; what noise
    there is stays in the image. Raises UserError for impossible options.
    """

    differentiated = False

    def __init__(self, denoiser, problem: InverseProblem, tolerance: float = 1e-6, iterations: int = 100):
        super().__init__(denoiser, problem)
        require_solver(tolerance, iterations)
        self.tolerance, self.iterations = tolerance, iterations

    def change(self, x0: Tensor, sigma: Tensor, seen: Observation, pull: Pull) -> Tensor:
        adjoint = self.problem.adjoint
        return adjoint(solved(self.problem, x0, seen, adjoint, self.tolerance, self.iterations))
