"""Mixtures of Gaussians in the plane: samples, and the exact density, score and denoiser at any noise level."""

import math

import torch
from torch import Tensor

CHUNK = 1024
"""Points at a time, so that memory stays small for many Gaussians."""


class Mixture:
    """sum_k w_k N(mean_k, cov_k) of each class; `classes` [K] tells the class of a Gaussian. All in float64.

    Densities are summed as logarithms, so that they and scores are finite far from all Gaussians, too.
    """

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor, classes: Tensor | None = None):
        self.weights = weights.double() / weights.double().sum()
        self.means, self.covariances = means.double(), covariances.double()
        self.classes = torch.zeros(len(weights), dtype=torch.long) if classes is None else classes
        values, vectors = torch.linalg.eigh(self.covariances)
        self.variances, self.axes = values.clamp_min(0), vectors

    @property
    def num_classes(self) -> int:
        return int(self.classes.max()) + 1

    def of_class(self, label: int) -> "Mixture":
        """Return the mixture of one class."""
        mine = self.classes == label
        return Mixture(self.weights[mine], self.means[mine], self.covariances[mine])

    def scaled_to(self, std: float) -> "Mixture":
        """Return the mixture moved to mean 0 and scaled to this standard deviation per coordinate."""
        mean = self.weights @ self.means
        spread = self.weights @ ((self.means - mean).square().sum(1) + self.variances.sum(1)) / 2
        factor = std / spread.sqrt()
        return Mixture(self.weights, (self.means - mean) * factor, self.covariances * factor**2, self.classes)

    def sample(self, count: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Return points f64[N,2] and their classes [N]."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, 2, dtype=torch.float64, generator=generator) * self.variances[chosen].sqrt()
        return self.means[chosen] + (self.axes[chosen] @ noise[..., None])[..., 0], self.classes[chosen]

    def log_density(self, points: Tensor, sigma: float = 0.0) -> Tensor:
        """Return ln p(x; sigma) f64[N] of points [N,2], p being blurred by noise of deviation sigma."""
        blurred = Blurred(self, sigma)
        return torch.cat([blurred.joint(part).logsumexp(1) for part in points.double().split(CHUNK)])

    def score(self, points: Tensor, sigma: float = 0.0) -> Tensor:
        """Return the gradient of ln p(x; sigma), f64[N,2]."""
        blurred = Blurred(self, sigma)
        return torch.cat([blurred.score(part) for part in points.double().split(CHUNK)])

    def denoised(self, points: Tensor, sigma: float) -> Tensor:
        """Return E[y | x] = x + sigma^2 score, f64[N,2]."""
        return points.double() + sigma**2 * self.score(points, sigma)


class Blurred:
    """A mixture with noise of deviation sigma, in the form of matrix products over many points."""

    def __init__(self, mixture: Mixture, sigma: float):
        variances = mixture.variances + sigma**2
        inverse = (mixture.axes / variances[:, None]) @ mixture.axes.transpose(1, 2)
        self.pull = (inverse @ mixture.means[..., None])[..., 0]  # inverse covariance times mean, [K,2]
        self.inverse = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], dim=1)
        constant = mixture.weights.log() - math.log(2 * math.pi) - 0.5 * variances.log().sum(1)
        constant = constant - 0.5 * (self.pull * mixture.means).sum(1)
        twice = self.inverse * torch.tensor([-0.5, -1.0, -0.5])
        self.factors = torch.cat([twice, self.pull, constant[:, None]], dim=1).T.contiguous()

    def joint(self, points: Tensor) -> Tensor:
        """Return ln p(k, x) [N,K]: a polynomial of second degree in x for each Gaussian k."""
        x, y = points.unbind(1)
        return torch.stack([x * x, x * y, y * y, x, y, torch.ones_like(x)], dim=1) @ self.factors

    def score(self, points: Tensor) -> Tensor:
        shares = self.joint(points).softmax(1)
        xx, xy, yy = (shares @ self.inverse).unbind(1)
        x, y = points.unbind(1)
        return shares @ self.pull - torch.stack([xx * x + xy * y, xy * x + yy * y], dim=1)
