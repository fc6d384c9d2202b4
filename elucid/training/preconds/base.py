"""Networks that know the noise level, D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) (Karras et al. 2022, eq. 7).

A preconditioner is the four coefficients and the range of sigma; all else is shared. What can be trained derives from
`Preconditioned`: denoisers, and classifiers of noisy images.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.noise.processes import LinearProcess, Process
from elucid.training.transforms.coordinates import coordinate_grid
from elucid.training.types import Cond, NetSpec, Prediction, Step


class Coefficients(NamedTuple):
    """c_skip, c_out, c_in, c_noise of a noise level, each [B,1,1,1] (Karras et al. 2022, table 1)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class Preconditioned(nn.Module):
    """Base of all that is trained: a network with the scaling of its input at each noise level, [B] or scalar sigma.

    `model` is the network; it runs in `precision` (fp32, tf32, fp16, bf16), all else in float32. fp16 is used on CUDA
    only. `levels` are the noise levels it knows, largest first, where they are discrete; `process` is the sigma(t) that
    it was made for.
    """

    sigma_min: float = 0.0
    sigma_max: float = math.inf
    process: Process = LinearProcess()
    default_loss: str | None = None

    def __init__(self, model: nn.Module, spec: NetSpec, precision: str = "fp32"):
        super().__init__()
        self.model, self.spec, self.precision = model, spec, precision

    @classmethod
    def adapt(cls, spec: NetSpec) -> NetSpec:
        """What this preconditioner asks of the network beyond `spec`."""
        return spec

    @property
    def levels(self) -> Tensor | None:
        """The noise levels [M] that the network knows, largest first; None where it knows all."""
        return None

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """c_skip, c_out, c_in, c_noise for sigma [B,1,1,1] (Karras et al. 2022, table 1), of the same shape."""
        raise NotImplementedError(f"{type(self).__name__} must define coefficients(sigma)")

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest noise level that the network knows; the identity unless its levels are discrete."""
        return torch.as_tensor(sigma)

    def after_step(self, step: Step) -> None:
        """Called after each optimizer step: hands on to a network that wants it, e.g. to normalise its weights."""
        of_network: Callable[[Step], None] | None = getattr(self.model, "after_step", None)
        if of_network is not None:
            of_network(step)

    @property
    def compute_dtype(self) -> torch.dtype:
        if self.precision == "bf16":
            return torch.bfloat16
        if self.precision == "fp16" and next(self.model.parameters()).is_cuda:
            return torch.float16
        return torch.float32

    def condition(self, x: Tensor, cond: Cond | None) -> Cond:
        """`cond` with what is missing filled in: zeros (no class, no augmentation), coordinates of the whole picture.

        Raises UserError while training, but for coordinates, and for another map that is missing.
        """
        cond = dict(cond or {})
        for name, width in self.spec.vector.items():
            if name not in cond:
                if self.training:
                    raise UserError(f"the network is conditioned on {name!r}, which the batch lacks: pass cond on")
                cond[name] = x.new_zeros(x.shape[0], width)
            cond[name] = cond[name].to(torch.float32).reshape(-1, width).expand(x.shape[0], -1)
        for name in self.spec.spatial:
            if name not in cond:
                if name != "coords":
                    raise UserError(f"the network sees the map {name!r} beside the image, which cond lacks: pass it on")
                cond[name] = coordinate_grid(x.shape[2], x.shape[3], x.device).expand(x.shape[0], -1, -1, -1)
        return cond

    def network_input(self, x: Tensor, c_in: Tensor, cond: Cond) -> Tensor:
        """The scaled image and the maps beside it [B,in_channels,H,W]."""
        scaled = c_in * x
        maps = [cond[name].to(scaled.dtype) for name in self.spec.spatial]
        return torch.cat([scaled, *maps], dim=1) if maps else scaled

    def call_network(self, x: Tensor, coefficients: Coefficients, cond: Cond) -> Any:
        """What the network makes of x [B,C,H,W] at these coefficients, run in `precision`."""
        seen = self.network_input(x, coefficients.c_in, cond).to(self.compute_dtype)
        return self.model(seen, coefficients.c_noise.reshape(-1).expand(x.shape[0]), cond)


def as_levels(sigma: Tensor | float, x: Tensor) -> Tensor:
    """sigma as float32 [B,1,1,1] or [1,1,1,1] on the device of x."""
    return torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1, 1, 1, 1)


class Denoiser(Preconditioned):
    """Base of the preconditioners: denoiser(x[B,C,H,W], sigma[B] or scalar, cond) -> Prediction.

    A network with twice the image's channels predicts a variance, too. `default_loss` names the loss that this
    preconditioner alone means.
    """

    default_loss = "edm"

    def forward(self, x: Tensor, sigma: Tensor | float, cond: Cond | None = None) -> Prediction:
        x = x.to(torch.float32)
        c = self.coefficients(as_levels(sigma, x))
        out = self.call_network(x, c, self.condition(x, cond)).to(torch.float32)
        channels, wanted = x.shape[1], (x.shape[0], self.spec.out_channels, *x.shape[2:])
        if out.shape != wanted:
            name = type(self.model).__name__
            raise UserError(f"network {name} returned {list(out.shape)} where {list(wanted)} is wanted")
        var = out[:, channels:] if out.shape[1] > channels else None
        return Prediction(c[0] * x + c[1] * out[:, :channels], var)
