"""A network that keeps the norm of its weights, and a denoiser with a learned log-variance that its loss weighs by."""

import torch
from torch import nn

from elucid.training.losses.base import Loss
from elucid.training.noise.distributions import NoiseDistribution
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.types import LossOutput, Prediction


class UnitNet(nn.Module):
    """Convolutions whose filters have unit norm after every step (Karras et al. 2024, in the spirit of)."""

    def __init__(self, img_resolution, in_channels, out_channels, vector=None, width: int = 8):
        super().__init__()
        self.first, self.last = (
            nn.Conv2d(in_channels, width, 3, padding=1),
            nn.Conv2d(width, out_channels, 3, padding=1),
        )
        self.after_step(None)

    def forward(self, x, c_noise, cond):
        return self.last(torch.tanh(self.first(x) * (1 + c_noise[:, None, None, None])))

    @torch.no_grad()
    def after_step(self, step):
        for layer in (self.first, self.last):
            layer.weight /= layer.weight.flatten(1).norm(dim=1)[:, None, None, None]


class WithLogVariance(EDMPrecond):
    """EDM's preconditioner with u(sigma), linear in ln sigma: the log of the variance of its error."""

    def __init__(self, model, spec, precision="fp32", sigma_data: float = 0.5):
        super().__init__(model, spec, precision, sigma_data)
        self.head = nn.Linear(1, 1)

    def forward(self, x, sigma, cond=None):
        out = super().forward(x, sigma, cond)
        level = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1, 1).log() / 4
        return Prediction(out.x0, out.var, self.head(level).flatten().expand(len(x)))


class Uncertainty(Loss):
    """exp(-u) error + u per element, whose minimum over u is the log of the error (Kendall & Gal 2017)."""

    def __init__(self, noise: NoiseDistribution):
        super().__init__()
        self.noise = noise

    def forward(self, denoiser, batch, step):
        sigma = self.noise.sample(len(batch), denoiser, batch.images.device)
        out = denoiser(batch.images + torch.randn_like(batch.images) * sigma, sigma, batch.cond)
        weight = denoiser.coefficients(sigma).c_out ** -2
        error = (weight * (out.x0 - batch.images) ** 2).mean(dim=(1, 2, 3))
        loss = (error * (-out.logvar).exp() + out.logvar) * batch.images[0].numel()
        return LossOutput(loss, {"loss": error, "logvar": out.logvar})
