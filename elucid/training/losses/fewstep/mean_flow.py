"""MeanFlow: the mean velocity between two times (Geng et al. 2025, arXiv 2505.13447)."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Loss, name_of, per_element, require_denoiser
from elucid.training.losses.fewstep.curricula import warmed
from elucid.training.losses.fewstep.derivative import NORMS, require_derivative, with_derivative
from elucid.training.losses.fewstep.time_pairs import TimePairs
from elucid.training.losses.fewstep.velocity_guidance import VelocityGuidance
from elucid.training.noise.paths import LinearPath
from elucid.training.preconds.base import Preconditioned
from elucid.training.preconds.flow import FlowPrecond
from elucid.training.types import Batch, Cond, LossOutput, NetSpec, Step

LOSS_TYPES = ("l2", "opt_grad")


class MeanFlow(Loss):
    """e / sg(e + eps)^p, e = |u(x_t, t, r) - sg(v - (t - r) du/dt)|^2, x_t = (1 - t) y + t n, v = n - y (eq. 10, 22).

    u is the network of `--precond=flow` on the linear path, told of r; du/dt is along (v, 1, 0). x_r = x_t - (t - r) u,
    so that one step from noise is n - u(n, 1, 0). `tr_sampler`, `ratio`, `P_mean`... draw t and r (`TimePairs`);
    `omega`, `kappa`, `interval`, `label_dropout` guide v (`VelocityGuidance`). `norm_p` and `norm_eps` are p and eps.

    Options of FastGen: `loss_type` "opt_grad", |u - sg(u) + g / (|g| + eps)^p|^2 for g = sg(u - target), with
    `norm` "rms" g / sqrt(d) (|g| / sqrt(d) + eps)^p of d elements; du/dt counts from 0 to 1 within `warmup` steps.
    `derivative` is forward or difference. Logged: `loss`, `squares`, e per element, and `warmup`.
    """

    uses_all_parameters = True
    mean = True
    predicts_images = False
    sampling = {"sampler": {"name": "flow_map"}, "schedule": {"name": "flow"}}

    def __init__(
        self,
        P_mean: float = -2.0,
        P_std: float = 2.0,
        P_mean_r: float | None = None,
        P_std_r: float | None = None,
        tr_sampler: str = "v0",
        ratio: float = 0.75,
        norm_p: float = 0.75,
        norm_eps: float = 1e-3,
        omega: float = 1.0,
        kappa: float = 0.0,
        interval: list[float] = (0.0, 1.0),
        label_dropout: float = 0.0,
        loss_type: str = "l2",
        norm: str = "norm",
        warmup: int = 0,
        derivative: str = "forward",
    ):
        super().__init__()
        if loss_type not in LOSS_TYPES:
            raise UserError(f"loss.loss_type={loss_type!r} is unknown; choose from {', '.join(LOSS_TYPES)}")
        if norm not in NORMS:
            raise UserError(f"loss.norm={norm!r} is unknown; choose from {', '.join(NORMS)}")
        if norm_p < 0 or not norm_eps > 0 or warmup < 0:
            raise UserError(
                f"loss.norm_p={norm_p:g} and loss.warmup={warmup} must not be negative, loss.norm_eps={norm_eps:g} "
                "above 0"
            )
        self.pairs = TimePairs(tr_sampler, ratio, P_mean, P_std, P_mean_r, P_std_r)
        self.guidance = VelocityGuidance(omega, kappa, interval, label_dropout)
        self.norm_p, self.norm_eps, self.loss_type, self.norm = norm_p, norm_eps, loss_type, norm
        self.warmup, self.derivative = warmup, require_derivative(derivative)
        self.forward_derivative = derivative == "forward"

    def adapt(self, spec: NetSpec) -> NetSpec:
        return spec.with_vector("sigma_to", 1)

    def check(self, denoiser: Preconditioned) -> None:
        require_denoiser(self, denoiser)
        require_velocity(self, denoiser)
        self.guidance.check(denoiser)

    def warmed(self, step: Step) -> float:
        """Return the share of du/dt, a pure function of the step."""
        return warmed(step, self.warmup)

    def forward(self, denoiser: FlowPrecond, batch: Batch, step: Step) -> LossOutput:
        noise, device = torch.randn_like(batch.images), batch.images.device
        t, r = self.pairs.draw(len(batch), device)
        cond, share = self.guidance.dropped(batch.cond, len(batch), device), self.warmed(step)
        loss, squares = self.at(denoiser, batch.images, cond, t, r, noise, share)
        terms = {"loss": loss, "squares": per_element(squares, batch.images)}
        return LossOutput(loss, {**terms, **({"warmup": loss.new_tensor(share)} if self.warmup else {})})

    def at(
        self, denoiser: FlowPrecond, images: Tensor, cond: Cond, t: Tensor, r: Tensor, noise: Tensor, share: float = 1.0
    ) -> tuple[Tensor, Tensor]:
        """Return the loss [B] at t and r [B,1,1,1] with unit noise [B,C,H,W], and e [B]; `share` of du/dt counts."""
        t, r = t.to(denoiser.dtype), r.to(denoiser.dtype)
        noise = denoiser.process.noise_scale * noise
        x, v = (1 - t) * images + t * noise, noise - images
        error = self.error(denoiser, x, t, r, self.guidance.velocity(denoiser, x, t, v, cond), cond, share)
        return self.weighted(error)

    def error(
        self, denoiser: FlowPrecond, x: Tensor, t: Tensor, r: Tensor, v: Tensor, cond: Cond, share: float
    ) -> Tensor:
        """Return u - sg(v - (t - r) du/dt), with gradient."""
        of = {"how": self.derivative, "denoiser": denoiser}
        u, slope = with_derivative(lambda x, t: denoiser.velocity(x, t, r, cond), x, t, v, **of)
        return u - (v - share * (t - r) * slope)

    def weighted(self, error: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss [B] of errors [B,C,H,W], and their squared sums."""
        squares = error.square().flatten(1).sum(dim=1)
        if self.loss_type == "l2":
            return squares / (squares.detach() + self.norm_eps) ** self.norm_p, squares
        fixed, unit = error.detach(), error[0].numel() ** 0.5 if self.norm == "rms" else 1.0
        size = squares.detach().sqrt().reshape(-1, 1, 1, 1) / unit
        tangent = fixed / (unit * (size + self.norm_eps) ** self.norm_p)
        return (error - fixed + tangent).square().flatten(1).sum(dim=1), squares


def require_velocity(loss: Loss, denoiser: Preconditioned) -> None:
    """Raise UserError unless the network predicts the velocity of the linear path and has no learned weighting."""
    name, kind = name_of(loss), type(denoiser).__name__
    if not isinstance(denoiser, FlowPrecond):
        raise UserError(f"{name} needs velocities, which {kind} has not; use `precond`=flow")
    if denoiser.prediction != "v" or not isinstance(denoiser.process, LinearPath):
        path, said = type(denoiser.process).__name__.removesuffix("Path").lower(), denoiser.prediction
        raise UserError(
            f"{name} needs precond.prediction=v and precond.path=linear, not {said} and {path}; leave both out"
        )
    if denoiser.uncertainty is not None:
        raise UserError(f"{name} weights itself, and uncertainty cannot; use `loss`={name}")
