"""Base class of denoisers of images given a measurement."""

import dataclasses
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.inverse.conjugate_gradients import conjugate_gradients
from elucid.training.inverse.problem import InverseProblem, Observation
from elucid.training.preconds.base import as_levels
from elucid.training.preconds.wrapper import DenoiserWrapper
from elucid.training.types import Cond, Prediction

Pull = Callable[[Tensor], Tensor]
"""J^T v [B,C,H,W] of v [B,C,H,W], J = dD/dx of the wrapped denoiser at x."""


class PosteriorDenoiser(DenoiserWrapper):
    """Base class: E[x0 | x, y] = D(x; sigma) + `change`, for any sampler and around any other guidance.

    y is `cond["measurement"]` [B,...], by default the problem's; the wrapped denoiser does not see it. Calculates in
    the dtype of x, which samplers keep in float64. A class that is not `differentiated` gets no J and costs no backward
    pass. Raises UserError if the problem is about images of another shape.
    """

    differentiated = True

    def __init__(self, denoiser, problem: InverseProblem):
        super().__init__(denoiser)
        if problem.shape != denoiser.spec.sample_shape:
            raise UserError(
                f"`operator` is about images of {list(problem.shape)}, but the model makes "
                f"{list(denoiser.spec.sample_shape)}; choose the model's own"
            )
        self.problem = problem

    @property
    def starts_from_noise(self) -> bool:
        """False: at pure noise the change, of which sigma^2 is a factor, is infinity times 0."""
        return False

    @abstractmethod
    def change(self, x0: Tensor, sigma: Tensor, seen: Observation, pull: Pull) -> Tensor:
        """Return what to add to x0 = D(x; sigma), [B,C,H,W] without gradient; sigma is [B or 1,1,1,1]."""

    def forward(self, x: Tensor, sigma: Tensor | float, cond: Cond | None = None) -> Prediction:
        others = dict(cond or {})
        seen = self.problem.observe(others.pop("measurement", None), x)
        with torch.set_grad_enabled(self.differentiated):
            x = x.detach().requires_grad_(self.differentiated)
            out = self.denoiser(x, sigma, others)
            x0 = out.x0.to(x.dtype)
        with torch.no_grad():
            change = self.change(x0.detach(), as_levels(sigma, x, x.dtype), seen, gradient_of(x0, x))
        tensors = {field.name: getattr(out, field.name) for field in dataclasses.fields(out)}
        detached = {name: one.detach() for name, one in tensors.items() if isinstance(one, Tensor)}
        return dataclasses.replace(out, **{**detached, "x0": x0.detach() + change})


def gradient_of(x0: Tensor, x: Tensor) -> Pull:
    """Return v -> J^T v, J = dx0/dx, any number of times; 0 if x0 does not depend on x."""

    def pull(v: Tensor) -> Tensor:
        if not x0.requires_grad:
            return torch.zeros_like(x)
        found = torch.autograd.grad(x0, x, v, retain_graph=True, allow_unused=True)[0]
        return torch.zeros_like(x) if found is None else found

    return pull


def solved(
    problem: InverseProblem, x0: Tensor, seen: Observation, project: Pull, tolerance: float, iterations: int
) -> Tensor:
    """Return v = (A C A^T + s^2)^-1 (y - A x0) [B,...], by conjugate gradients; `project` returns C A^T v [B,C,H,W].

    They are taken in normalised units, as else a channel of small numbers would seem to be solved from the beginning.
    """
    weight = 1 / problem.units.like(x0)

    def covariance(u: Tensor) -> Tensor:
        v = weight * u
        return weight * (problem.measure(project(v)) + seen.variance * v)

    right = weight * (seen.value - problem.measure(x0))
    return weight * conjugate_gradients(covariance, right, tolerance, iterations)


def require_solver(tolerance: float, iterations: int) -> None:
    """Raise UserError unless 0 <= tolerance < 1 and iterations >= 1, of conjugate gradients."""
    if not 0 <= tolerance < 1:
        raise UserError(f"`posterior`: tolerance={tolerance:g} must be at least 0 and below 1, e.g. 1e-4")
    if iterations < 1:
        raise UserError(f"`posterior`: iterations={iterations} must be at least 1")


def require_positive(**values: float) -> None:
    """Raise UserError unless each option is a finite number above 0."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise UserError(f"`posterior`: {name}={value:g} must be a finite number above 0")
