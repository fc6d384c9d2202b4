"""Denoisers: a network F as D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) (Karras et al. 2022, eq. 7).

A preconditioner is the four coefficients and the range of sigma; all else is shared.
"""

import math

import torch
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.types import Cond, NetSpec, Prediction

Coefficients = tuple[Tensor, Tensor, Tensor, Tensor]


def coordinate_grid(height: int, width: int, device=None) -> Tensor:
    """Coordinates of all pixels, channel 0 = x, 1 = y, each from -1 to 1 [2,H,W] (Wang et al. 2023)."""
    y = torch.linspace(-1, 1, height, device=device) if height > 1 else torch.zeros(1, device=device)
    x = torch.linspace(-1, 1, width, device=device) if width > 1 else torch.zeros(1, device=device)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])


class Denoiser(nn.Module):
    """Base of all preconditioners: denoiser(x[B,C,H,W], sigma[B] or scalar, cond) -> Prediction.

    `model` is the network; it runs in `precision` (fp32, tf32, fp16, bf16), all else in float32. fp16 is used on CUDA
    only. Missing cond["labels"] mean no class (zeros); missing cond["coords"] mean the full picture.
    """

    sigma_min: float = 0.0
    sigma_max: float = math.inf

    def __init__(self, model: nn.Module, spec: NetSpec, precision: str = "fp32"):
        super().__init__()
        self.model, self.spec, self.precision = model, spec, precision

    def coefficients(self, sigma: Tensor) -> Coefficients:
        """c_skip, c_out, c_in, c_noise for sigma [B,1,1,1] (Karras et al. 2022, table 1), of the same shape."""
        raise NotImplementedError(f"{type(self).__name__} must define coefficients(sigma)")

    def round_sigma(self, sigma: Tensor) -> Tensor:
        """The nearest noise level that the network knows; the identity unless its levels are discrete."""
        return torch.as_tensor(sigma)

    @property
    def compute_dtype(self) -> torch.dtype:
        on_cuda = next(self.model.parameters()).is_cuda
        if self.precision == "bf16":
            return torch.bfloat16
        return torch.float16 if self.precision == "fp16" and on_cuda else torch.float32

    def condition(self, x: Tensor, cond: Cond | None) -> Cond:
        """`cond` with what is missing filled in."""
        cond = dict(cond or {})
        if self.spec.label_dim:
            labels = cond.get("labels")
            if labels is None:
                labels = x.new_zeros(x.shape[0], self.spec.label_dim)
            cond["labels"] = labels.to(torch.float32).reshape(-1, self.spec.label_dim).expand(x.shape[0], -1)
        if self.spec.coord_channels and "coords" not in cond:
            cond["coords"] = coordinate_grid(*x.shape[2:], device=x.device).expand(x.shape[0], -1, -1, -1)
        return cond

    def forward(self, x: Tensor, sigma: Tensor | float, cond: Cond | None = None) -> Prediction:
        x = x.to(torch.float32)
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x.device).reshape(-1, 1, 1, 1)
        cond = self.condition(x, cond)
        c_skip, c_out, c_in, c_noise = self.coefficients(sigma)
        seen = c_in * x
        if self.spec.coord_channels:
            seen = torch.cat([seen, cond["coords"].to(seen.dtype)], dim=1)
        out = self.model(seen.to(self.compute_dtype), c_noise.reshape(-1).expand(x.shape[0]), cond).to(torch.float32)
        channels = x.shape[1]
        wanted = (x.shape[0], self.spec.out_channels, *x.shape[2:])
        if out.shape != wanted:
            name = type(self.model).__name__
            raise UserError(f"network {name} returned {list(out.shape)} where {list(wanted)} is wanted")
        var = out[:, channels:] if self.spec.learned_variance else None
        return Prediction(c_skip * x + c_out * out[:, :channels], var)
