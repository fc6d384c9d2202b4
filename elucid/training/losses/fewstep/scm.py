"""Continuous-time consistency, sCM: TrigFlow with normalised tangents (Lu & Song 2024, arXiv 2410.11081)."""

import math

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Loss, require_denoiser
from elucid.training.losses.fewstep.curricula import warmed
from elucid.training.losses.fewstep.derivative import NORMS, RELATIVE_STEP, arc, require_derivative, with_derivative
from elucid.training.losses.fewstep.distances import sigma_data
from elucid.training.losses.fewstep.pairs import require_boundary
from elucid.training.noise.distributions import NoiseDistribution
from elucid.training.preconds.base import Denoiser, Preconditioned
from elucid.training.types import Batch, Cond, LossOutput, Step


class SCM(Loss):
    """|F - F- - g|^2 / d for F(x_t, t) with x_t = cos t y + sin t z, z ~ N(0, s^2), s = sigma_data, d elements.

    F = (cos t x_t - D) / (s sin t) is TrigFlow's network in terms of a denoiser D(x_t / cos t; s tan t) with D(x; 0) =
    x, F- is F without gradient. g / (|g| + c) is the tangent of g = -cos^2 t (s F- - dx/dt) - r cos t sin t (x_t + s
    dF-/dt), r = min(1, k / warmup) in step k (algorithm 1 there): g is cos t df/dt of f = D once r = 1, cos t being
    the paper's prior weight 1 / (s tan t). Its learned weighting is `uncertainty(scm)`.

    `noise` draws sigma = s tan t. Options of FastGen: `norm` "rms", |g| / sqrt(d) in place of |g|; `prior`, the loss
    times 1 / (s tan t) once more; `divide_twice`, by d. `derivative` is forward or difference. Logged: `warmup` = r and
    `tangent`, |g| / sqrt(d).
    """

    uses_all_parameters = True
    mean = True
    sampling = {"sampler": {"name": "consistency"}, "schedule": {"name": "chosen", "levels": [80.0, 0.982]}}

    def __init__(
        self,
        noise: NoiseDistribution,
        c: float = 0.1,
        warmup: int = 10_000,
        norm: str = "norm",
        prior: bool = False,
        divide_twice: bool = False,
        derivative: str = "forward",
    ):
        super().__init__()
        if norm not in NORMS:
            raise UserError(f"loss.norm={norm!r} is unknown; choose from {', '.join(NORMS)}")
        if not c > 0 or warmup < 0:
            raise UserError(f"loss.c={c:g} must be above 0 and loss.warmup={warmup} not negative")
        self.noise, self.c, self.warmup, self.norm = noise, c, warmup, norm
        self.prior, self.divide_twice, self.derivative = prior, divide_twice, require_derivative(derivative)
        self.forward_derivative = derivative == "forward"

    def check(self, denoiser: Preconditioned) -> None:
        require_denoiser(self, denoiser)
        require_boundary(self, denoiser)
        self.noise.check(denoiser)

    def warmed(self, step: Step) -> float:
        """Return r, a pure function of the step."""
        return warmed(step, self.warmup)

    def slope(self, denoiser: Denoiser, batch: Batch, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Return dx/dt of the probability flow; here of the way between an image and its noise, which has its mean."""
        return t.cos() * z - t.sin() * batch.images

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        sigma = self.noise.sample(len(batch), denoiser, batch.images.device)
        return self.at(denoiser, batch, sigma, torch.randn_like(batch.images), self.warmed(step))

    def at(self, denoiser: Denoiser, batch: Batch, sigma: Tensor, noise: Tensor, r: float) -> LossOutput:
        """Return the loss at levels [B,1,1,1] with unit noise [B,C,H,W] and the share r of the tangent."""
        s, d = sigma_data(denoiser), batch.images[0].numel()
        t, z = (sigma.to(denoiser.dtype) / s).atan(), s * noise
        x = t.cos() * batch.images + t.sin() * z
        with torch.no_grad():
            dx = self.slope(denoiser, batch, x, t, z)
        value, slope = with_derivative(
            lambda x, t: trigflow(denoiser, x, t, batch.cond, s),
            *(x, t, dx, self.derivative),
            rate=t.cos() * t.sin(),
            move=arc,
            step=step_of(t),
            end=math.inf,
            denoiser=denoiser,
        )
        fixed = value.detach()
        g = -(t.cos() ** 2) * (s * fixed - dx) - r * (t.cos() * t.sin() * x + s * slope)
        size = g.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1)
        rms = size / math.sqrt(d)
        g = g / ((rms if self.norm == "rms" else size) + self.c)
        loss = (value - fixed - g).square().flatten(1).sum(dim=1) / (d * d if self.divide_twice else d)
        if self.prior:
            loss = loss / (s * t.tan().reshape(-1))
        return LossOutput(loss, {"loss": loss, "warmup": loss.new_tensor(r), "tangent": rms.reshape(-1)})


def step_of(t: Tensor) -> Tensor:
    """Return the step of finite differences: FastGen's, but small beside what is left to pi / 2, pure noise."""
    return torch.minimum(RELATIVE_STEP * t, (math.pi / 2 - t) / 20)


def trigflow(denoiser, x: Tensor, t: Tensor, cond: Cond | None, s: float) -> Tensor:
    """Return F(x_t, t) = (cos t x_t - D(x_t / cos t; s tan t)) / (s sin t); s F is dx/dt where D is the mean."""
    return (t.cos() * x - denoiser(x / t.cos(), s * t.tan(), cond).x0) / (s * t.sin())
