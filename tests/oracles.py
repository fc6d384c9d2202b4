"""Denoisers that are known in closed form."""

import torch
from torch import Tensor, nn

from elucid.training.preconds.base import Coefficients, Denoiser
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
