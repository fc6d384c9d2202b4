"""The preconditioner of inductive moment matching, whose network is told where a step ends."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.paths import Path, make_path
from elucid.training.preconds.base import Coefficients, Denoiser, as_levels
from elucid.training.types import Cond, NetSpec, Prediction

PREDICTIONS = ("edm", "v", "x")
SECOND = ("time", "difference")


class IMMPrecond(Denoiser):
    """IMM (Zhou et al. 2025, arXiv 2503.07565): f_st(x_t) is the step from t to s of a denoiser of both, on a path
    x_t = a x0 + b n, n of deviation c = `noise_scale`: x = x_t / a, sigma = c b / a, c_in = 1/sqrt(c^2+sigma^2).

    `prediction` "edm" (simple_edm): c_skip = c^2/(c^2+sigma^2), c_out = -c sigma/sqrt(c^2+sigma^2), EDM's with -F, so
    that f_st = (a_t a_s + b_t b_s)/d^2 x_t - (a_s b_t - a_t b_s)/d c F, d^2 = a_t^2 + b_t^2. "v" (euler_fm): c F is the
    mean velocity, on the linear path f_st = x_t - (t - s) c F. "x" (identity): D = F. The network sees `time_scale` t
    and, as `second`, the "time" s or the "difference" t - s, as much. Times are from `t_min` to `t_max`, and the flow
    ends at t_min: for any level below, x0 is f_st at s = t_min, as in the published program. Raises UserError for
    impossible options.
    """

    uses_all_parameters = True
    default_loss = "imm"
    default_sampler, default_schedule = "flow_map", "flow_map"

    def __init__(
        self,
        model,
        spec: NetSpec,
        precision: str = "fp32",
        path: str = "linear",
        prediction: str = "edm",
        second: str = "time",
        time_scale: float = 1000.0,
        noise_scale: float = 0.5,
        t_min: float = 0.006,
        t_max: float = 0.994,
    ):
        super().__init__(model, spec, precision)
        for name, value, choices in (("prediction", prediction, PREDICTIONS), ("second", second, SECOND)):
            if value not in choices:
                raise UserError(f"precond.{name}={value!r} is unknown; choose from {', '.join(choices)}")
        if not 0 <= t_min < t_max < 1:
            raise UserError(f"precond.t_min={t_min:g} and precond.t_max={t_max:g} must be 0 <= t_min < t_max < 1")
        self.process = make_path(path, noise_scale)
        self.prediction, self.second, self.time_scale = prediction, second, time_scale
        self.t_min, self.t_max = t_min, t_max
        ends = self.process.sigma(torch.tensor([t_min, t_max], dtype=torch.float64))
        self.sigma_min, self.sigma_max = ends.tolist()

    @classmethod
    def adapt(cls, spec: NetSpec) -> NetSpec:
        return spec.with_vector("sigma_to", 1)

    @property
    def edge(self) -> float:
        """Distance of training times from both ends."""
        return max(self.t_min, 1e-5)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        path: Path = self.process
        c, total = path.noise_scale, sigma**2 + path.noise_scale**2
        c_in, c_noise = total.rsqrt(), self.time_scale * path.time(sigma)
        if self.prediction == "edm":
            return Coefficients(c**2 / total, -c * sigma * c_in, c_in, c_noise)
        if self.prediction == "x":
            return Coefficients(torch.zeros_like(sigma), torch.ones_like(sigma), c_in, c_noise)
        c_skip, c_out = path.of_velocity(sigma)
        return Coefficients(c_skip, -c * c_out, c_in, c_noise)

    def level(self, c_noise: Tensor) -> Tensor:
        return c_noise / self.time_scale

    def level_to(self, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        t_to = self.process.time(sigma_to)
        return self.time_scale * (self.process.time(sigma) - t_to if self.second == "difference" else t_to)

    def forward(self, x: Tensor, sigma: Tensor | float, cond: Cond | None = None) -> Prediction:
        x = x.to(self.dtype)
        sigma = as_levels(sigma, x, self.dtype)
        asked = as_levels((cond or {}).get("sigma_to", sigma), x, self.dtype)
        to = asked.clamp_min(self.sigma_min)
        out = super().forward(x, sigma, {**(cond or {}), "sigma_to": to})
        if self.sigma_min:  # half of it: a level is not below by a rounding
            a, _ = self.process.scales(to)
            end = a * (out.x0 + to / sigma * (x - out.x0))
            out.x0 = torch.where(asked < self.sigma_min / 2, end, out.x0)
        return out
