"""DDPM in sigma space: a network that predicts the noise at discrete levels."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.discrete import betas, levels_of, nearest_level
from elucid.training.noise.processes import VPProcess
from elucid.training.preconds.base import Coefficients, Denoiser
from elucid.training.preconds.classifier import NoisyClassifier
from elucid.training.types import NetSpec


class DiscreteProcess:
    """Mixin of preconditioners with the levels of a beta schedule, sigma_T > ... > sigma_1.

    Level sigma_t has c_noise = t - 1 (times 1000/T with `rescale_timesteps`, as in improved DDPM) and
    c_in = 1/sqrt(sigma^2 + 1); other noise levels use the nearest one's c_noise.
    """

    def set_levels(self, beta_schedule: str, diffusion_steps: int, rescale_timesteps: bool) -> None:
        """Create the levels; call once in the constructor. Raises UserError for betas outside (0, 1)."""
        self.beta_schedule, self.diffusion_steps = beta_schedule, diffusion_steps
        self.time_scale = 1000 / diffusion_steps if rescale_timesteps else 1.0
        self.exact_levels = levels_of(betas(beta_schedule, diffusion_steps))[:-1]  # float64, which not all devices have
        self.register_buffer("u", self.exact_levels.to(torch.float32), persistent=False)
        self.sigma_min, self.sigma_max = float(self.exact_levels[-1]), float(self.exact_levels[0])

    @property
    def levels(self) -> Tensor:
        return self.exact_levels

    def index(self, sigma: Tensor) -> Tensor:
        """Return the index of the nearest level, 0 for the largest, in the shape of sigma."""
        return nearest_level(self.u, sigma)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        sigma = torch.as_tensor(sigma)
        index = nearest_level(self.exact_levels, sigma.cpu().to(torch.float64))
        return self.exact_levels[index].to(sigma.dtype).to(sigma.device)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        c_noise = (self.diffusion_steps - 1 - self.index(sigma)).to(torch.float32) * self.time_scale
        return Coefficients(torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), c_noise)


class DDPMPrecond(DiscreteProcess, Denoiser):
    """DDPM (Ho et al. 2020): D = x - sigma F(x / sqrt(sigma^2 + 1); t - 1), where F predicts the unit noise.

    `variance` is that of an ancestral step, beta-tilde ("small") or beta ("large"); a network with 2C output channels
    has a learned one (Nichol & Dhariwal 2021). In sigma space x = x_t / sqrt(abar_t).
    """

    uses_all_parameters = constant_buffers = True

    default_loss = "simple"
    default_sampler, default_schedule = "ddpm", "respaced"
    clips = True

    def __init__(
        self,
        model,
        spec: NetSpec,
        precision: str = "fp32",
        beta_schedule: str = "linear",
        diffusion_steps: int = 1000,
        rescale_timesteps: bool = False,
        variance: str = "small",
    ):
        super().__init__(model, spec, precision)
        if variance not in ("small", "large"):
            raise UserError(f"variance={variance!r} must be small or large; a learned one comes from `learn_sigma`=1")
        self.set_levels(beta_schedule, diffusion_steps, rescale_timesteps)
        if beta_schedule == "linear":
            self.process = VPProcess()  # its limit for many steps
        self.variance = "learned" if spec.out_channels == 2 * spec.image_channels else variance


class DDPMClassifier(DiscreteProcess, NoisyClassifier):
    """Classifier of the noisy images of a discrete process (Dhariwal & Nichol 2021, section 4): x, sigma -> logits."""

    uses_all_parameters = constant_buffers = True

    def __init__(
        self,
        model,
        spec: NetSpec,
        precision: str = "fp32",
        beta_schedule: str = "linear",
        diffusion_steps: int = 1000,
        rescale_timesteps: bool = False,
    ):
        super().__init__(model, spec, precision)
        self.set_levels(beta_schedule, diffusion_steps, rescale_timesteps)
