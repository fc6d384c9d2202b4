"""Denoisers that are known in closed form."""

import torch
from torch import Tensor, nn

from elucid.training.preconds.base import Denoiser
from elucid.training.types import NetSpec, Prediction


class GaussianDenoiser(Denoiser):
    """Exact for data ~ N(mean, std^2): D(x; sigma) = (std^2 x + sigma^2 mean) / (std^2 + sigma^2), plus `bias`."""

    def __init__(self, mean: float = 0.3, std: float = 0.5, bias: float = 0.0, shape=(1, 4, 4)):
        super().__init__(nn.Identity(), NetSpec(resolution=shape[1:], image_channels=shape[0]))
        self.mean, self.std = mean, std
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def coefficients(self, sigma: Tensor):
        total = sigma**2 + self.std**2
        return self.std**2 / total, sigma * self.std / total.sqrt(), 1 / total.sqrt(), sigma.log() / 4

    def forward(self, x: Tensor, sigma, cond=None) -> Prediction:
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).reshape(-1, 1, 1, 1)
        total = sigma**2 + self.std**2
        return Prediction((self.std**2 * x + sigma**2 * self.mean) / total + self.bias * sigma)

    def data(self, count: int) -> Tensor:
        """Samples [count,C,H,W] of the data."""
        return torch.randn(count, self.spec.image_channels, *self.spec.resolution) * self.std + self.mean
