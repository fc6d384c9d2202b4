"""Denoisers that are known in closed form."""

import torch
from torch import Tensor, nn

from elucid.training.preconds.base import Coefficients, Denoiser
from elucid.training.preconds.classifier import NoisyClassifier
from elucid.training.types import NetSpec, Prediction, Step


class GaussianDenoiser(Denoiser):
    """Exact for data ~ N(mean, std^2): D(x; sigma) = (std^2 x + sigma^2 mean) / (std^2 + sigma^2), plus `bias`."""

    def __init__(self, mean: float = 0.3, std: float = 0.5, bias: float = 0.0, shape=(1, 4, 4)):
        super().__init__(nn.Identity(), NetSpec(resolution=shape[1:], image_channels=shape[0]))
        self.mean, self.std = mean, std
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def coefficients(self, sigma: Tensor):
        total = sigma**2 + self.std**2
        c_out, c_in = sigma * self.std / total.sqrt(), 1 / total.sqrt()
        return Coefficients(self.std**2 / total, c_out, c_in, sigma.log() / 4)

    def forward(self, x: Tensor, sigma, cond=None) -> Prediction:
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1)
        total = sigma**2 + self.std**2
        return Prediction((self.std**2 * x + sigma**2 * self.mean) / total + self.bias * sigma)

    def data(self, count: int) -> Tensor:
        """Samples [count,C,H,W] of the data."""
        return torch.randn(count, self.spec.image_channels, *self.spec.resolution) * self.std + self.mean


def step_at(nimg: int = 0, total_nimg: int = 1000, batch_size: int = 1, seed: int = 0) -> Step:
    """A step of a run without losses of several phases."""
    return Step(nimg // batch_size, nimg, total_nimg, seed, batch_size)


class MixtureDenoiser(Denoiser):
    """Exact for data whose class k, drawn with `weights[k]`, is N(means[k], stds[k]^2) in all pixels.

    With r_k = p(k | x; sigma), D = sum_k r_k (std_k^2 x + sigma^2 mean_k) / (std_k^2 + sigma^2). If it is `labelled`, a
    label that is not all zeros replaces r.
    """

    def __init__(self, means=(-0.6, 0.4), stds=(0.2, 0.3), weights=(0.3, 0.7), shape=(1, 1, 2), labelled=False):
        vector = {"labels": len(means)} if labelled else {}
        super().__init__(nn.Identity(), NetSpec(shape[1:], shape[0], vector=vector))
        self.means, self.stds, self.weights = (torch.tensor(values) for values in (means, stds, weights))

    def log_joint(self, x: Tensor, sigma: Tensor) -> Tensor:
        """ln p(k, x; sigma) [B,K], up to a constant."""
        variance = (sigma.reshape(-1, 1) ** 2 + self.stds**2)[:, :, None]
        far = (x.flatten(1)[:, None] - self.means[:, None]) ** 2
        return self.weights.log() - 0.5 * (far / variance + variance.log()).sum(2)

    def of_classes(self, x: Tensor, sigma: Tensor) -> Tensor:
        """D of each class alone [K,B,C,H,W]."""
        variances, means = (values.reshape(-1, 1, 1, 1, 1) for values in (self.stds**2, self.means))
        return (variances * x + sigma**2 * means) / (variances + sigma**2)

    def forward(self, x: Tensor, sigma, cond=None) -> Prediction:
        sigma = torch.as_tensor(sigma, dtype=x.dtype).reshape(-1, 1, 1, 1)
        assert self.spec.label_dim or "labels" not in (cond or {}), "an unconditional denoiser was given labels"
        share = self.log_joint(x, sigma).softmax(1)
        if self.spec.label_dim and "labels" in (cond or {}):
            labels = cond["labels"].to(x.dtype)
            share = torch.where(labels.sum(1, keepdim=True) == 0, share, labels)
        return Prediction((share.T[:, :, None, None, None] * self.of_classes(x, sigma)).sum(0))


class MixtureClassifier(NoisyClassifier):
    """The exact p(k | x; sigma) of a `MixtureDenoiser`, as logits."""

    def __init__(self, mixture: MixtureDenoiser):
        super().__init__(nn.Identity(), mixture.spec.replace(vector={}, out_channels=len(mixture.means)))
        self.mixture = [mixture]  # not a submodule

    def forward(self, x: Tensor, sigma, cond=None) -> Tensor:
        assert "labels" not in (cond or {}), "a classifier was given the answer"
        return self.mixture[0].log_joint(x, torch.as_tensor(sigma, dtype=x.dtype))


class CovarianceDenoiser(Denoiser):
    """Exact for data ~ N(mean, covariance) of any shape: D = mean + C (C + sigma^2)^-1 (x - mean), in float64.

    By the eigenvectors of C, which do not depend on sigma.
    """

    def __init__(self, mean: Tensor, covariance: Tensor):
        super().__init__(nn.Identity(), NetSpec(tuple(mean.shape[1:]), mean.shape[0]), "fp64")
        self.mean, self.covariance = mean.double(), covariance.double()
        self.values, self.vectors = torch.linalg.eigh(self.covariance)

    def forward(self, x: Tensor, sigma, cond=None) -> Prediction:
        sigma = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, 1)
        part = (x.double() - self.mean).flatten(1) @ self.vectors
        x0 = (part * self.values / (self.values + sigma**2)) @ self.vectors.T
        return Prediction(self.mean + x0.reshape(x.shape))

    def data(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Samples [count,C,H,W] of the data."""
        draws = torch.randn(count, len(self.values), dtype=torch.float64, generator=generator)
        return self.mean + ((draws * self.values.sqrt()) @ self.vectors.T).reshape(-1, *self.mean.shape)
