"""Denoisers: a network F as D(x; sigma) = c_skip x + c_out F(c_in x; c_noise) (Karras et al. 2022, eq. 7).

A preconditioner is the four coefficients and the range of sigma; all else is shared. Read next: `losses/base.py`.
"""

import math

import torch
from torch import Tensor, nn

from dnnlib.errors import UserError
from training.types import Cond, NetSpec, Prediction

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


class VPPrecond(Denoiser):
    """Variance preserving (Song et al. 2021): c_skip 1, c_out -sigma, c_in 1/sqrt(sigma^2+1), c_noise (M-1) t(sigma).

    sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1); sigma from sigma(epsilon_t) to sigma(1).
    """

    def __init__(
        self,
        model,
        spec,
        precision="fp32",
        beta_d: float = 19.9,
        beta_min: float = 0.1,
        M: int = 1000,
        epsilon_t: float = 1e-5,
    ):
        super().__init__(model, spec, precision)
        self.beta_d, self.beta_min, self.M, self.epsilon_t = beta_d, beta_min, M, epsilon_t
        self.sigma_min = float(self.sigma(torch.tensor(epsilon_t)))
        self.sigma_max = float(self.sigma(torch.tensor(1.0)))

    def sigma(self, t: Tensor) -> Tensor:
        return (0.5 * self.beta_d * t**2 + self.beta_min * t).exp().sub(1).sqrt()

    def sigma_inv(self, sigma: Tensor) -> Tensor:
        root = (self.beta_min**2 + 2 * self.beta_d * (1 + sigma**2).log()).sqrt()
        return (root - self.beta_min) / self.beta_d

    def coefficients(self, sigma: Tensor) -> Coefficients:
        return torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), (self.M - 1) * self.sigma_inv(sigma)


class VEPrecond(Denoiser):
    """Variance exploding (Song et al. 2021): c_skip 1, c_out sigma, c_in 1, c_noise ln(sigma / 2)."""

    def __init__(self, model, spec, precision="fp32", sigma_min: float = 0.02, sigma_max: float = 100.0):
        super().__init__(model, spec, precision)
        self.sigma_min, self.sigma_max = float(sigma_min), float(sigma_max)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        one = torch.ones_like(sigma)
        return one, sigma, one, (0.5 * sigma).log()


class iDDPMPrecond(Denoiser):  # noqa: N801 - the field's spelling
    """Improved DDPM (Nichol & Dhariwal 2021): c_skip 1, c_out -sigma, c_in 1/sqrt(sigma^2+1), c_noise M-1-index.

    The M levels u_j of the cosine schedule, largest first, with u_M = 0 and
    u_(j-1) = sqrt((u_j^2 + 1) / max(abar_(j-1) / abar_j, C_1) - 1), abar_j = sin^2(pi/2 j / (M (C_2 + 1))).
    The network has 2C outputs, the second half for the variance.
    """

    def __init__(self, model, spec, precision="fp32", C_1: float = 0.001, C_2: float = 0.008, M: int = 1000):
        super().__init__(model, spec, precision)
        self.C_1, self.C_2, self.M = C_1, C_2, M
        self.register_buffer("u", iddpm_levels(M, C_1, C_2), persistent=False)
        self.sigma_min, self.sigma_max = float(self.u[M - 1]), float(self.u[0])

    @classmethod
    def adapt(cls, spec: NetSpec) -> NetSpec:
        return spec.replace(learned_variance=True)

    def index(self, sigma: Tensor) -> Tensor:
        """Index of the nearest level, of sigma's shape."""
        flat = sigma.to(torch.float32).reshape(1, -1, 1)
        return torch.cdist(flat, self.u.reshape(1, -1, 1)).argmin(2).reshape(sigma.shape)

    def round_sigma(self, sigma: Tensor) -> Tensor:
        sigma = torch.as_tensor(sigma)
        return self.u.to(sigma.device)[self.index(sigma.to(self.u.device)).to(sigma.device)].to(sigma.dtype)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        c_noise = (self.M - 1 - self.index(sigma)).to(torch.float32)
        return torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), c_noise


def iddpm_levels(M: int, C_1: float, C_2: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """The levels u_0 > ... > u_M = 0 of `iDDPMPrecond` [M+1] (Karras et al. 2022, table 1)."""
    # abar and its ratios in float32, as published, whatever the type of the levels: in float64 the smallest of them
    # would differ by 5e-4.
    abar = (0.5 * math.pi * torch.arange(M + 1) / M / (C_2 + 1)).sin() ** 2
    ratios = (abar[:-1] / abar[1:]).clamp(min=C_1)
    levels = torch.zeros(M + 1, dtype=dtype)
    for j in range(M, 0, -1):
        levels[j - 1] = ((levels[j] ** 2 + 1) / ratios[j - 1] - 1).sqrt()
    return levels


class EDMPrecond(Denoiser):
    """EDM (Karras et al. 2022): with s = sigma_data, c_skip = s^2/(sigma^2+s^2), c_out = sigma s/sqrt(sigma^2+s^2),
    c_in = 1/sqrt(sigma^2+s^2), c_noise = ln(sigma)/4. Any sigma > 0."""

    def __init__(
        self,
        model,
        spec,
        precision="fp32",
        sigma_data: float = 0.5,
        sigma_min: float = 0.0,
        sigma_max: float = math.inf,
    ):
        super().__init__(model, spec, precision)
        if sigma_data <= 0:
            raise UserError(f"sigma_data={sigma_data} must be positive; EDM uses 0.5")
        self.sigma_data, self.sigma_min, self.sigma_max = sigma_data, float(sigma_min), float(sigma_max)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        total = sigma**2 + self.sigma_data**2
        return self.sigma_data**2 / total, sigma * self.sigma_data / total.sqrt(), 1 / total.sqrt(), sigma.log() / 4
