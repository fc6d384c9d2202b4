"""The variational bound as a loss, alone or beside the simple one (Nichol & Dhariwal 2021)."""

import math

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import require_denoiser
from elucid.training.losses.dsm import DSM, DSMEvaluation
from elucid.training.noise.distributions import NoiseDistribution
from elucid.training.noise.gaussian_steps import GaussianSteps, normal_kl
from elucid.training.preconds.base import Denoiser, Preconditioned
from elucid.training.types import Batch, LossOutput, NetSpec, Step


class BoundLoss(DSM):
    """Base of losses with the terms of the bound at one step per image, in bits.

    `learn_sigma` asks for a network with 2C output channels, whose second half is the variance.
    """

    def __init__(self, noise: NoiseDistribution, learn_sigma: bool = True):
        super().__init__(noise)
        self.learn_sigma = learn_sigma
        self._steps: GaussianSteps | None = None

    def adapt(self, spec: NetSpec) -> NetSpec:
        return spec.replace(out_channels=2 * spec.image_channels) if self.learn_sigma else spec

    def check(self, denoiser: Preconditioned) -> None:
        require_denoiser(self, denoiser)
        if denoiser.levels is None:
            kind = type(denoiser).__name__
            raise UserError(f"the loss needs discrete noise levels, {kind} has none; use `precond`=ddpm")
        self.noise.check(denoiser)
        if self.learn_sigma and denoiser.spec.out_channels != 2 * denoiser.spec.image_channels:
            spec = denoiser.spec
            raise UserError(
                f"learn_sigma=1 needs a network with {2 * spec.image_channels} output channels, it has "
                f"{spec.out_channels}; use learn_sigma=0"
            )

    def steps(self, denoiser: Denoiser, device: torch.device) -> GaussianSteps:
        """Return the denoiser's process, float32 on the device."""
        if self._steps is None or self._steps.sigma.device != device:
            levels = denoiser.levels
            self._steps = GaussianSteps(torch.cat([levels, levels.new_zeros(1)])).to(device, torch.float32)
        return self._steps

    def bits(self, denoiser: Denoiser, images: Tensor, one: DSMEvaluation, x0: Tensor) -> Tensor:
        """Return the terms of the bound in bits [B,C,H,W] for the estimate x0, times the importance of sigma."""
        steps, index = self.steps(denoiser, images.device), denoiser.index(one.sigma).reshape(-1)
        variance = "learned" if self.learn_sigma else getattr(denoiser, "variance", "small")
        log_variance = steps.log_variance(index, variance, one.prediction.var)
        return one.importance * steps.bits(images, one.x, x0, log_variance, index)


class HybridLoss(BoundLoss):
    """L_simple + weight T L_vlb with a learned variance, weight 1/1000 (Nichol & Dhariwal 2021, eq. 16).

    The bound trains only the variance: its mean is detached. Terms `mse` and `vb` are per element, the latter in bits.
    """

    uses_all_parameters = True

    def __init__(self, noise: NoiseDistribution, weight: float = 1e-3):
        super().__init__(noise, learn_sigma=True)
        self.weight = weight

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        one = self.evaluate(denoiser, batch)
        simple = one.error.sum(dim=(1, 2, 3))
        bound = self.bits(denoiser, batch.images, one, one.prediction.x0.detach()).sum(dim=(1, 2, 3))
        bound = bound * (self.weight * len(denoiser.levels))
        return self.output(denoiser, batch, one, simple + bound, mse=simple, vb=bound)


class VariationalLoss(BoundLoss):
    """One step's term of the bound L_vlb in bits (Nichol & Dhariwal 2021, eq. 4-7), or times T with `whole`.

    The expectation of the latter is the whole bound, up to its constant term.
    """

    uses_all_parameters = True

    def __init__(self, noise: NoiseDistribution, learn_sigma: bool = True, whole: bool = False):
        super().__init__(noise, learn_sigma)
        self.whole = whole

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        one = self.evaluate(denoiser, batch)
        bound = self.bits(denoiser, batch.images, one, one.prediction.x0).sum(dim=(1, 2, 3))
        bound = bound * (len(denoiser.levels) if self.whole else 1)
        return self.output(denoiser, batch, one, bound)


def prior_bits(images: Tensor, sigma_max: float) -> Tensor:
    """Return KL(q(x_T | images) || N(0, 1)) in bits, elementwise: the constant term of the bound."""
    log_abar = -math.log1p(sigma_max**2)
    log_variance = images.new_tensor(math.log(-math.expm1(log_abar)))
    zero = images.new_zeros(())
    return normal_kl(math.exp(log_abar / 2) * images, log_variance, zero, zero) / math.log(2)
