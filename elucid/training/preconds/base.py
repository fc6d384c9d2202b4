"""Preconditioned networks, D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) (Karras et al. 2022, eq. 7).

A preconditioner defines the four coefficients and the range of sigma; everything else is shared. All trainable models
derive from `Preconditioned`: denoisers and classifiers of noisy images.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.compilation import compiled
from elucid.torch_utils.transfer import moved
from elucid.torch_utils.weights.working import WorkingWeights
from elucid.training.networks.edm2.uncertainty import Uncertainty
from elucid.training.networks.regions import regions
from elucid.training.noise.processes import LinearProcess, Process
from elucid.training.transforms.coordinates import coordinate_grid
from elucid.training.types import Cond, NetSpec, Prediction, Step

LEAST_LEVEL = 2e-3
"""The level that stands for 0 where a network is told of it by its logarithm: the last of EDM's schedule."""


class Coefficients(NamedTuple):
    """c_skip, c_out, c_in, c_noise at a noise level, each [B,1,1,1] (Karras et al. 2022, table 1)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class Preconditioned(nn.Module):
    """Base class of trainable models: a network whose input is scaled by the noise level sigma, [B] or scalar.

    The network `model` runs in `precision` (fp32, tf32, fp16, bf16; fp16 on CUDA only), everything else in float32;
    with fp64, for proofs, all is float64. `process` is the sigma(t) it was designed for. `default_loss` names the loss
    used if none is chosen, `latent_std` is the deviation that latents with statistics of each channel get if nothing
    says another.
    """

    latent_std: float = 0.5
    sigma_min: float = 0.0
    sigma_max: float = math.inf
    process: Process = LinearProcess()
    default_loss: str | None = None

    def __init__(self, model: nn.Module, spec: NetSpec, precision: str = "fp32"):
        super().__init__()
        self.model, self.spec, self.precision = model, spec, precision
        self.working = WorkingWeights()

    @classmethod
    def adapt(cls, spec: NetSpec) -> NetSpec:
        """Add what this preconditioner needs from the network to `spec`."""
        return spec

    @property
    def levels(self) -> Tensor | None:
        """The discrete noise levels [M] of the network, largest first; None if they are continuous."""
        return None

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """Return c_skip, c_out, c_in, c_noise (Karras et al. 2022, table 1) for sigma [B,1,1,1], in its shape."""
        raise NotImplementedError(f"{type(self).__name__} must define coefficients(sigma)")

    def compiled(self, warn: Callable[[str], None], **how) -> AbstractContextManager:
        """Return a context in which the network's regions are compiled, or all of it if it has none.

        `warn` is told if that fails, `how` is as in `torch_utils.compilation.compiled`.
        """
        device = next(self.model.parameters()).device
        return compiled(regions(self.model) or [self.model], device, warn, **how)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """Round sigma to the nearest noise level of the network; the identity if its levels are continuous."""
        return torch.as_tensor(sigma)

    def after_step(self, step: Step) -> None:
        """Called after each optimizer step; calls the network's `after_step` if any, e.g. to normalise weights."""
        of_network: Callable[[Step], None] | None = getattr(self.model, "after_step", None)
        if of_network is not None:
            of_network(step)

    @property
    def dtype(self) -> torch.dtype:
        """The type of x, levels, conditions and predictions."""
        return torch.float64 if self.precision == "fp64" else torch.float32

    @property
    def compute_dtype(self) -> torch.dtype:
        """The type that the network computes in."""
        if self.precision == "bf16":
            return torch.bfloat16
        if self.precision == "fp16" and next(self.model.parameters()).is_cuda:
            return torch.float16
        return self.dtype

    def condition(self, x: Tensor, cond: Cond | None) -> Cond:
        """Return `cond` with missing entries filled in: zeros for vectors, full-image coordinates for `coords`.

        Raises UserError if a vector is missing in training mode, or any spatial map other than `coords`.
        """
        cond = dict(cond or {})
        for name, width in self.spec.vector.items():
            if name not in cond:
                if self.training:
                    raise UserError(f"the network is conditioned on {name!r}, missing from cond; pass on the batch's")
                cond[name] = x.new_zeros(x.shape[0], width)
            cond[name] = cond[name].to(self.dtype).reshape(-1, width).expand(x.shape[0], -1)
        for name in self.spec.spatial:
            if name not in cond:
                if name != "coords":
                    raise UserError(f"the network takes the spatial map {name!r}, missing from cond; pass it on")
                cond[name] = coordinate_grid(x.shape[2], x.shape[3], x.device).expand(x.shape[0], -1, -1, -1)
        return cond

    def network_input(self, x: Tensor, c_in: Tensor, cond: Cond) -> Tensor:
        """Concatenate the scaled image and the spatial maps to [B,in_channels,H,W]."""
        scaled = c_in * x
        maps = [cond[name].to(scaled.dtype) for name in self.spec.spatial]
        return torch.cat([scaled, *maps], dim=1) if maps else scaled

    def call_network(self, x: Tensor, coefficients: Coefficients, cond: Cond) -> Any:
        """Run the network on x [B,C,H,W] with these coefficients, in `precision`."""
        seen = self.network_input(x, coefficients.c_in, cond).to(self.compute_dtype)
        c_noise = coefficients.c_noise.reshape(-1).expand(x.shape[0])
        return self.working.call(self.model, self.compute_dtype, seen, c_noise, cond)


def as_levels(sigma: Tensor | float, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Convert sigma to [B,1,1,1] or [1,1,1,1] on the device of x; the host does not wait for it."""
    sigma = torch.as_tensor(sigma, dtype=dtype).reshape(-1, 1, 1, 1)
    if sigma.device == x.device:
        return sigma
    if len(sigma) == 1 and sigma.device.type == "cpu":  # an argument of a kernel, which needs no copy
        return torch.full((1, 1, 1, 1), sigma.item(), dtype=dtype, device=x.device)
    return moved(sigma, x.device)


class Denoiser(Preconditioned):
    """Base class of denoisers: denoiser(x[B,C,H,W], sigma[B] or scalar, cond) -> Prediction.

    A spec with the vector condition `sigma_to`, a level [B], makes it a flow map: x0 is where a straight line through x
    starts that reaches the level sigma_to where the flow from x does, x_to = x0 + sigma_to (x - x0) / sigma; by
    default sigma_to is sigma, and x0 that of the flow's direction at x, as any denoiser's. With the condition
    `guidance_scale` [B] it is told a scale of guidance, 1 for none.

    If the network outputs twice the image's channels, the second half is returned as `var`. If `spec.logvar_features`
    is not 0, a head of that many features makes `logvar`, in float32. `variance` names the variance of an ancestral
    step (`noise.gaussian_steps`); `default_sampler` and `default_schedule` are used if none is chosen; `clips` says
    whether x0 is clipped to [-1, 1] while sampling images, and `starts_from_noise` whether samplers that can start from
    pure noise do, at `noise.paths.PURE_NOISE` (`Sampler.from_pure_noise`).
    """

    default_loss = "edm"
    default_sampler, default_schedule = "edm", "karras"
    variance = "small"
    clips = False
    starts_from_noise = False

    def __init__(self, model: nn.Module, spec: NetSpec, precision: str = "fp32"):
        super().__init__(model, spec, precision)
        self.uncertainty = Uncertainty(spec.logvar_features) if spec.logvar_features else None

    def level(self, c_noise: Tensor) -> Tensor:
        """Return what the head of the learned weighting is told of the noise level, c_noise itself by default."""
        return c_noise

    def after_step(self, step: Step) -> None:
        super().after_step(step)
        if self.uncertainty is not None:
            self.uncertainty.after_step()

    def level_to(self, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        """Return what the network is told of the level `sigma_to` that a step from sigma ends at, in the same shape.

        By default it is c_noise of that level, of one below `LEAST_LEVEL` that of this.
        """
        return self.coefficients(sigma_to.clamp_min(LEAST_LEVEL)).c_noise

    def scale_seen(self, scale: Tensor) -> Tensor:
        """Return what the network is told of a scale of guidance, in the same shape: c_noise of a level of that size.

        So it fits the waves of each network as noise levels do; 1, no guidance, is 0 where c_noise = ln(sigma) / 4.
        """
        return self.coefficients(scale.clamp_min(LEAST_LEVEL)).c_noise

    def conditions(self, x: Tensor, sigma: Tensor, cond: Cond | None) -> Cond:
        """Return the conditions as the network sees them.

        Of `sigma_to`, a noise level, by default sigma, that is `level_to`; of `guidance_scale`, by default 1, it is
        `scale_seen`.
        """
        told = dict(cond or {})
        if "sigma_to" in self.spec.vector:
            told["sigma_to"] = self.level_to(sigma, as_levels(told.get("sigma_to", sigma), x, self.dtype))
        if "guidance_scale" in self.spec.vector:
            told["guidance_scale"] = self.scale_seen(as_levels(told.get("guidance_scale", 1.0), x, self.dtype))
        return self.condition(x, told)

    def output(self, x: Tensor, c: Coefficients, cond: Cond) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Return the network's output [B,out_channels,H,W] for these coefficients, and its features."""
        out, features = self.call_network(x, c, cond), None
        if isinstance(out, tuple):
            out, features = out
        wanted = (x.shape[0], self.spec.out_channels, *x.shape[2:])
        if out.shape != wanted:
            name = type(self.model).__name__
            raise UserError(f"network {name} returned {list(out.shape)} , expected {list(wanted)}")
        return out.to(self.dtype), features

    def forward(self, x: Tensor, sigma: Tensor | float, cond: Cond | None = None) -> Prediction:
        x = x.to(self.dtype)
        sigma = as_levels(sigma, x, self.dtype)
        c, channels = self.coefficients(sigma), x.shape[1]
        out, features = self.output(x, c, self.conditions(x, sigma, cond))
        var = out[:, channels:] if out.shape[1] > channels else None
        logvar = None
        if self.uncertainty is not None:
            logvar = self.uncertainty(self.level(c.c_noise.reshape(-1))).expand(len(x))
        return Prediction(c.c_skip * x + c.c_out * out[:, :channels], var, logvar, features=features)
