"""Discriminators of noisy images: a denoiser's inner features, and a small head that turns them into one logit."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.losses.alignment import as_tokens, probed
from elucid.training.networks.layers import Conv2d, Linear, zeros
from elucid.training.networks.resolutions import BOTTLENECK
from elucid.training.noise.schedules import rho_levels
from elucid.training.preconds.base import Denoiser
from elucid.training.types import Cond, NetSpec

KINDS = ("non_saturating", "hinge")


class Head(nn.Module):
    """Features [B,D,h,w] to a logit [B]: a 3x3 convolution, group norm, SiLU, the mean over positions, a linear layer.

    The last layer starts at 0, so that nothing is real or fake at first. It computes in the type of its weights.
    """

    def __init__(self, n_in: int, width: int):
        super().__init__()
        self.conv, self.norm = Conv2d(n_in, width, 3), nn.GroupNorm(1, width)
        self.linear = Linear(width, 1, init=zeros())

    def forward(self, features: Tensor) -> Tensor:
        hidden = F.silu(self.norm(self.conv(features)))
        return self.linear(hidden.mean(dim=(2, 3)))


def with_bottleneck(spec: NetSpec) -> NetSpec:
    """Return a spec that asks for the layer that discriminators look at."""
    return spec.replace(features=tuple(dict.fromkeys([*spec.features, BOTTLENECK])))


def make_head(denoiser: Denoiser, width: int) -> Head:
    """Make a head for the bottleneck of a denoiser, on its device and in its type."""
    features = as_map(probed(denoiser, BOTTLENECK), denoiser.spec.resolution)
    return Head(features.shape[1], width).to(features.device, denoiser.dtype)


def as_map(features: Tensor, resolution: tuple[int, int]) -> Tensor:
    """Return features [B,D,h,w], or tokens [B,N,D] of images of (height, width), as a map [B,D,h,w]."""
    tokens, (rows, columns) = as_tokens(features, resolution)
    return tokens.transpose(1, 2).unflatten(2, (rows, columns))


def logits(denoiser: Denoiser, head: nn.Module, x: Tensor, sigma: Tensor, cond: Cond) -> Tensor:
    """Return a logit [B] of noisy images, large for those that look real."""
    found = denoiser(x, sigma, cond).features
    assert found is not None, "the spec asks for the bottleneck"
    return head(as_map(found[BOTTLENECK].to(denoiser.dtype), x.shape[2:])).reshape(len(x), -1).mean(dim=1)


def generator_loss(fake: Tensor, kind: str = "non_saturating") -> Tensor:
    """Return -ln sigmoid(logit) of generated images, or with hinge minus the logit, [B]."""
    return F.softplus(-fake) if kind == "non_saturating" else -fake


def discriminator_loss(real: Tensor, fake: Tensor, kind: str = "non_saturating") -> Tensor:
    """Return -ln sigmoid(real) - ln(1 - sigmoid(fake)), or max(1 - real, 0) + max(1 + fake, 0), [B]."""
    if kind == "non_saturating":
        return F.softplus(-real) + F.softplus(fake)
    return F.relu(1 - real) + F.relu(1 + fake)


class Diffusion:
    """Adds noise of a random one of 1000 levels of EDM's schedule, of the share `first` to `last` from the least on."""

    def __init__(self, first: float, last: float, sigma_min: float, sigma_max: float, count: int = 1000):
        if not 0 <= first < last <= 1:
            raise UserError(f"levels of the share {first:g} to {last:g} are none: need 0 <= first < last <= 1")
        if not 0 < sigma_min < sigma_max:
            raise UserError(f"loss.sigma_min={sigma_min:g} must be above 0, and below loss.sigma_max={sigma_max:g}")
        self.grid = rho_levels(count, sigma_min, sigma_max).flip(0)  # the least level first
        self.first, self.last = int(first * count), max(int(last * count), int(first * count) + 1)

    def at(self, index: Tensor) -> Tensor:
        """Return the levels f32[B,1,1,1] of these indices."""
        return self.grid.to(index.device)[index.flatten()].to(torch.float32).reshape(-1, 1, 1, 1)

    def draw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a level [B,1,1,1] for each image; returns the noisy images, and the levels."""
        sigma = self.at(torch.randint(self.first, self.last, (len(images),), device=images.device))
        return images + sigma * torch.randn_like(images), sigma


def require_kind(kind: str) -> None:
    """Raise UserError unless there is such a loss."""
    if kind not in KINDS:
        raise UserError(f"loss.kind={kind!r} is unknown; choose from {', '.join(KINDS)}")
