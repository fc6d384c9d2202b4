"""The steps of a discrete diffusion process in sigma space: posteriors, variances and their bound in bits.

With x = x_t / sqrt(abar_t) and sigma^2 = (1 - abar_t) / abar_t (the notation of all other modules), the process of
Ho et al. 2020 adds noise of variance sigma_t^2 - sigma_(t-1)^2 in step t.
"""

import math

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.choices import VARIANCES
from elucid.training.noise.discrete import betas_between


class GaussianSteps:
    """Steps i from sigmas[i] to sigmas[i+1] of decreasing `sigmas` [N+1] or [N+1,...], the last usually 0.

    `log_small` and `log_large` [N,...] are the logarithms of beta-tilde and beta, divided by abar_next as x is. Where
    beta-tilde is 0, in the step to 0, that of the step before replaces it, as published.
    """

    def __init__(self, sigmas: Tensor):
        self.sigma, self.sigma_next = sigmas[:-1], sigmas[1:]
        beta, growth = betas_between(sigmas), 1 + self.sigma_next**2  # growth is 1 / abar_next
        large = beta * growth
        small = (self.sigma_next / self.sigma) ** 2 * (self.sigma - self.sigma_next) * (self.sigma + self.sigma_next)
        before = torch.cat([large[:1], small[:-1] / growth[:-1]])
        small = torch.where(self.sigma_next == 0, before, small)
        self.log_small, self.log_large = small.log(), large.log()
        self.log_fixed_large = torch.where(self.sigma_next == 0, self.log_small, self.log_large)

    def __len__(self) -> int:
        return len(self.sigma)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> "GaussianSteps":
        """Return a copy on another device and in another dtype."""
        copy = object.__new__(GaussianSteps)
        copy.__dict__ = {name: table.to(device, dtype) for name, table in self.__dict__.items()}
        return copy

    def pick(self, table: Tensor, index: int | Tensor) -> Tensor:
        """Return one entry of a table, or those of an index [B] as [B,1,1,1]."""
        return table[index] if isinstance(index, int) else table[index.reshape(-1)].reshape(-1, 1, 1, 1)

    def posterior_mean(self, x: Tensor, x0: Tensor, index: int | Tensor) -> Tensor:
        """Return the mean of q(x_next | x, x0) = x0 + (sigma_next / sigma)^2 (x - x0) (Ho et al. 2020, eq. 7)."""
        return x0 + (self.pick(self.sigma_next, index) / self.pick(self.sigma, index)) ** 2 * (x - x0)

    def log_variance(self, index: int | Tensor, variance: str, v: Tensor | None = None) -> Tensor:
        """Return the log variance of a step: of beta-tilde ("small") or beta ("large", Ho et al. 2020, section 3.2).

        "learned": v in [-1, 1] interpolates between log beta-tilde and log beta (Nichol & Dhariwal 2021, eq. 15).
        Raises UserError for unknown names, and for "learned" without the network's `v`.
        """
        if variance == "small":
            return self.pick(self.log_small, index)
        if variance == "large":
            return self.pick(self.log_fixed_large, index)
        if variance != "learned":
            raise UserError(f"variance={variance!r} is unknown; choose from {', '.join(VARIANCES)}")
        if v is None:
            raise UserError(
                "variance=learned: the network has no channels for a variance; train with `learn_sigma`=1, or use "
                "variance=small or large"
            )
        low, high = self.pick(self.log_small, index), self.pick(self.log_large, index)
        return low + (v + 1) / 2 * (high - low)

    def variance(self, index: int | Tensor, variance: str, v: Tensor | None = None) -> Tensor:
        """Return the variance by which classifier guidance shifts the mean; "small" is 0 in the step to 0."""
        value = self.log_variance(index, variance, v).exp()
        return torch.where(self.pick(self.sigma_next, index) == 0, 0.0, value) if variance == "small" else value

    def bits(self, images: Tensor, x: Tensor, x0: Tensor, log_variance: Tensor, index: Tensor) -> Tensor:
        """Return the terms of the bound in bits, elementwise: KL(q || p) of each step, or -log p(images) of the last.

        Ho et al. 2020, eq. 5. `x` and the estimate `x0` [B,C,H,W], `images` of 8 bits in [-1, 1], step `index` [B].
        """
        mean = self.posterior_mean(x, x0, index)
        kl = normal_kl(
            self.posterior_mean(x, images, index), self.pick(self.log_small, index), mean, log_variance
        ) / math.log(2)
        last = self.pick(self.sigma_next, index) == 0
        if last.device.type == "cpu" and not bool(last.any()):  # on a GPU the host would wait for the answer
            return kl
        return torch.where(last, -log_likelihood_of_bytes(images, mean, log_variance) / math.log(2), kl)


def normal_kl(mean: Tensor, log_variance: Tensor, other_mean: Tensor, other_log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) || N(other_mean, other_variance)) in nats, elementwise."""
    shift = (mean - other_mean) ** 2 * (-other_log_variance).exp()
    gap = log_variance - other_log_variance
    return 0.5 * (torch.expm1(gap) - gap + shift)


def log_likelihood_of_bytes(images: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return log P of 8-bit images in [-1, 1] under N(mean, variance), in nats (Ho et al. 2020, eq. 13).

    A value's bin is 2/255 wide; those of -1 and 1 are unbounded. The normal distribution function is
    (1 + tanh(sqrt(2/pi) (z + 0.044715 z^3))) / 2, as published, and probabilities are at least 1e-12.
    """
    scale = (-0.5 * log_variance).exp()
    upper = _normal_cdf(scale * (images - mean + 1 / 255))
    lower = _normal_cdf(scale * (images - mean - 1 / 255))
    upper = torch.where(images > 0.999, 1.0, upper)
    lower = torch.where(images < -0.999, 0.0, lower)
    return (upper - lower).clamp(min=1e-12).log()


def _normal_cdf(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
