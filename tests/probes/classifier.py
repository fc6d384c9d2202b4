"""A classifier of noisy images through the same loop: cross-entropy, and its accuracy in the log."""

import torch
from torch import nn
from torch.nn import functional as F

from elucid.training.losses.base import Loss
from elucid.training.noise.distributions import NoiseDistribution
from elucid.training.types import LossOutput


class Encoder(nn.Module):
    """Logits [B,out_channels] of images, shifted by the noise level."""

    def __init__(self, img_resolution, in_channels, out_channels, width: int = 8):
        super().__init__()
        self.first, self.second = nn.Conv2d(in_channels, width, 3, 2, 1), nn.Conv2d(width, width, 3, 2, 1)
        self.last = nn.Linear(width, out_channels)

    def forward(self, x, c_noise, cond):
        x = F.silu(self.first(x) + c_noise[:, None, None, None])
        return self.last(F.silu(self.second(x)).mean(dim=(2, 3)))


class CrossEntropy(Loss):
    """-ln p(y | x; sigma), in nats per image (Dhariwal & Nichol 2021, section 4.1)."""

    def __init__(self, noise: NoiseDistribution):
        super().__init__()
        self.noise = noise

    def forward(self, classifier, batch, step):
        sigma = self.noise.sample(len(batch), classifier, batch.images.device)
        labels = batch.cond["labels"].argmax(dim=1)
        logits = classifier(batch.images + torch.randn_like(batch.images) * sigma, sigma, batch.cond)
        loss = F.cross_entropy(logits, labels, reduction="none")
        return LossOutput(loss, {"accuracy": (logits.argmax(dim=1) == labels).float()})
