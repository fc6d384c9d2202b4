"""Maps of the probability flow that are known: closed forms, quantiles, and differential equations, in float64.

Each is a consistency function f(x; sigma) and a flow map D(x; sigma, sigma_to), plus an error with two parameters
`wrong`, a shift and a stretch, so that "the gradient at the exact map" is that of the two at 0.
"""

import torch
from torch import Tensor, nn

from elucid.evaluation.toy.flow import flowed
from elucid.evaluation.toy.mixture import Mixture
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.preconds.fewstep.imm import IMMPrecond
from elucid.training.preconds.flow import FlowPrecond
from elucid.training.types import Batch, NetSpec, Prediction

HALVINGS, NEWTON = 12, 3


class Line:
    """A mixture of Gaussians of one number; its flow keeps the quantile, F_s(x_s) = F_t(x_t)."""

    def __init__(self, means, deviations, weights):
        self.means, self.deviations, self.weights = (
            torch.tensor(one, dtype=torch.float64) for one in (means, deviations, weights)
        )
        self.weights = self.weights / self.weights.sum()

    @property
    def mean(self) -> Tensor:
        return (self.weights * self.means).sum()

    @property
    def variance(self) -> Tensor:
        return (self.weights * (self.deviations**2 + (self.means - self.mean) ** 2)).sum()

    def parts(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """How far x [...] lies from each mean in its deviations [...,K], and the deviations."""
        wide = (self.deviations**2 + sigma[..., None] ** 2).sqrt()
        return (x[..., None] - self.means) / wide, wide

    def tail(self, x: Tensor, sigma: Tensor, side: Tensor) -> Tensor:
        """P(X < x), or of side -1 P(X > x): the smaller one is exact far away, too."""
        return (self.weights * torch.special.erfc(-side[..., None] * self.parts(x, sigma)[0] / 2**0.5) / 2).sum(-1)

    def density(self, x: Tensor, sigma: Tensor) -> Tensor:
        far, wide = self.parts(x, sigma)
        return (self.weights * torch.exp(-(far**2) / 2) / (wide * (2 * torch.pi) ** 0.5)).sum(-1)

    def flow(self, x: Tensor, sigma: Tensor, to: Tensor) -> Tensor:
        """The quantile of x at another level, by halving and Newton's steps, the last of which has its derivatives."""
        sigma, to = sigma.expand_as(x), to.expand_as(x)
        fixed, level, end = x.detach(), sigma.detach(), to.detach()
        side = torch.where(self.tail(fixed, level, torch.ones_like(fixed)) > 0.5, -1.0, 1.0).double()
        share = self.tail(fixed, level, side)
        reach = 40 * (self.deviations.max() ** 2 + end**2).sqrt()
        low, high = self.means.min() - reach, self.means.max() + reach
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            beyond = side * (self.tail(middle, end, side) - share) > 0
            low, high = torch.where(beyond, low, middle), torch.where(beyond, middle, high)
        found = ((low + high) / 2).detach()
        for _ in range(NEWTON):
            there = self.tail(found, end, side)  # by logarithms, which are nearly straight far away
            found = found + side * (share / there).log() * there / self.density(found, end)
        far = side * (self.tail(x, sigma, side) - self.tail(found, to, side))
        return found + far / self.density(found, end)

    def denoised(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[y | x]."""
        far, wide = self.parts(x, sigma.expand_as(x))
        share = (self.weights.log() - far**2 / 2 - wide.log()).softmax(-1)
        return (share * (self.means + self.deviations**2 / wide * far)).sum(-1)


class Gaussian(Line):
    """N(mean, deviation^2): (x - mean) keeps its share of sqrt(deviation^2 + sigma^2)."""

    def __init__(self, mean: float = 0.3, deviation: float = 0.5):
        super().__init__([mean], [deviation], [1.0])

    def flow(self, x: Tensor, sigma: Tensor, to: Tensor) -> Tensor:
        variance = self.deviations**2
        return self.means + (x - self.means) * ((variance + to**2) / (variance + sigma**2)).sqrt()


class Plane:
    """A mixture in the plane, whose flow is a differential equation; all points are at one level."""

    def __init__(self, mixture: Mixture):
        self.mixture, self.mean, self.variance = mixture, torch.zeros(()).double(), torch.full((), 0.25).double()

    def flow(self, x: Tensor, sigma: Tensor, to: Tensor) -> Tensor:
        ends = float(sigma.reshape(-1)[0]), float(to.reshape(-1)[0])
        return flowed(self.mixture, x.flatten(1), *ends).reshape(x.shape)

    def denoised(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.mixture.denoised(x.flatten(1), float(sigma.reshape(-1)[0])).reshape(x.shape)


class Exact(nn.Module):
    """Mixed into a preconditioner: `data` is known, `wrong` is added."""

    def know(self, data, wrong=(0.0, 0.0)):
        self.data, self.wrong = data, nn.Parameter(torch.tensor(wrong, dtype=torch.float64))
        return self

    def error(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Shift and stretch, which are 0 at level 0."""
        unit = (x - self.data.mean) / (self.data.variance + sigma**2).sqrt()
        return sigma / (0.5 + sigma) * (self.wrong[0] + self.wrong[1] * unit)


class ConsistencyMap(Exact, EDMPrecond):
    """f(x; sigma), the end of the flow."""

    def __init__(self, data, wrong=(0.0, 0.0), channels: int = 1):
        super().__init__(nn.Identity(), NetSpec((1, 1), channels), "fp64")
        self.know(data, wrong)

    def forward(self, x, sigma, cond=None):
        sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
        return Prediction(self.data.flow(x, sigma, torch.zeros_like(sigma)) + self.error(x, sigma))


class Denoised(ConsistencyMap):
    """E[y | x], the exact teacher."""

    def forward(self, x, sigma, cond=None):
        sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
        return Prediction(self.data.denoised(x, sigma) + self.error(x, sigma))


class Straight(Exact):
    """A flow map's D(x; sigma, sigma_to), where the straight line to the flow's end starts."""

    def straight(self, x: Tensor, sigma: Tensor, to: Tensor) -> Tensor:
        end = self.data.flow(x, sigma, to)
        return torch.where(sigma > to, (sigma * end - to * x) / (sigma - to).clamp_min(1e-300), x)


class StepMap(Straight, IMMPrecond):
    """The flow map, as imm's preconditioner."""

    def __init__(self, data, wrong=(0.0, 0.0), channels: int = 1):
        super().__init__(nn.Identity(), NetSpec((1, 1), channels, vector={"sigma_to": 1}), "fp64")
        self.know(data, wrong)

    def forward(self, x, sigma, cond=None):
        return Prediction(self.straight(x, sigma, cond["sigma_to"]) + self.error(x, sigma))


class VelocityMap(Exact, FlowPrecond):
    """u(x_t, t, r), the mean velocity of the linear path, the velocity itself at r = t."""

    def __init__(self, data, wrong=(0.0, 0.0), channels: int = 1):
        super().__init__(nn.Identity(), NetSpec((1, 1), channels, vector={"sigma_to": 1}), "fp64")
        self.know(data, wrong)

    def velocity(self, x, t, t_to=None, cond=None):
        level, to = t / (1 - t), t_to / (1 - t_to)
        tied = (t == t_to).expand_as(x)
        now = (x - self.data.denoised(x / (1 - t), level)) / t
        end = (1 - t_to) * self.data.flow(x / (1 - t), level, to)
        mean = (x - end) / torch.where(t == t_to, 1.0, t - t_to)
        return torch.where(tied, now, mean) - self.error(x / (1 - t), level)


def grid(data: Line, count: int = 64, reach: float = 7.0) -> tuple[Batch, Tensor, Tensor]:
    """Clean numbers and unit noise on a grid, and their probabilities: the midpoint rule, exact for smooth functions.

    A quadrature of the expectation over images and noise, without a random number.
    """
    places = (torch.arange(count, dtype=torch.float64) + 0.5) / count * 2 * reach - reach
    share = torch.exp(-(places**2) / 2)
    share = share / share.sum()
    u, n = (one.flatten() for one in torch.meshgrid(places, places, indexing="ij"))
    both = (share[:, None] * share).flatten()
    images = torch.cat([m + d * u for m, d in zip(data.means, data.deviations, strict=True)])
    chance = torch.cat([w * both for w in data.weights])
    return Batch(images.reshape(-1, 1, 1, 1)), n.repeat(len(data.means)).reshape(-1, 1, 1, 1), chance


def gradient(denoiser: Exact, loss: Tensor, chance: Tensor | None = None) -> Tensor:
    """The gradient [2] of the expected loss by the error."""
    total = loss.mean() if chance is None else (loss * chance).sum()
    return torch.autograd.grad(total, denoiser.wrong)[0]
