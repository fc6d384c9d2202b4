"""An adversarial term with a discriminator that trains in a phase, and with an optimizer, of its own."""

import torch
from torch import nn
from torch.nn import functional as F

from elucid.training.losses.base import Loss, LossWrapper, per_element
from elucid.training.types import LossOutput


class Critic(nn.Module):
    """A score [B] of images [B,channels,H,W], large for those that look real."""

    def __init__(self, channels: int = 1, width: int = 8):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(width, 1, 1),
        )

    def forward(self, images):
        return self.layers(images).mean(dim=(1, 2, 3))


class Adversarial(LossWrapper):
    """base + weight * softplus(-critic(D(x; sigma))), against a critic that tells denoised from real images."""

    all_phases = ("critic", "main")

    def __init__(self, base: Loss, discriminator: nn.Module, weight: float = 0.1, lr: float = 2e-4, sigma: float = 0.5):
        super().__init__(base)
        self.discriminator, self.weight, self.lr, self.sigma = discriminator, weight, lr, sigma

    def phases(self, step):
        return self.all_phases

    def parameters_of(self, denoiser, phase):
        if phase == "critic":
            return self.discriminator.named_parameters("discriminator")
        return self.base.parameters_of(denoiser, phase)

    def optimizer_options(self, phase):
        return {"lr": self.lr} if phase == "critic" else {}

    def forward(self, denoiser, batch, step):
        x = batch.images + torch.randn_like(batch.images) * self.sigma
        fake = denoiser(x, self.sigma, batch.cond).x0
        if step.phase == "critic":
            loss = F.softplus(-self.discriminator(batch.images)) + F.softplus(self.discriminator(fake.detach()))
            return LossOutput(loss)
        adversarial = F.softplus(-self.discriminator(fake))
        out = self.base(denoiser, batch, step)
        loss = out.loss + self.weight * batch.images[0].numel() * adversarial
        return LossOutput(loss, {**out.terms, "adversarial": adversarial, "loss": per_element(loss, batch.images)})
