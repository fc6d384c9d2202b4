"""Stochastic sampling of flow matching: the reverse SDE with a chosen amount of noise."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.paths import Path
from elucid.training.samplers.base import Callback, Denoise, Noise
from elucid.training.samplers.flow.base import LEAST_TIME, Flow, FlowSampler

DIFFUSIONS: dict[str, Callable[[Path, Tensor, float], Tensor]] = {
    "constant": lambda path, t, norm: torch.full_like(t, norm),
    "sbdm": lambda path, t, norm: norm * path.noise_scale**2 * path.b(t) * path.wronskian(t) / path.a(t),
    "sigma": lambda path, t, norm: norm * path.noise_scale * path.b(t),
    "linear": lambda path, t, norm: norm * t,
    "decreasing": lambda path, t, norm: 0.25 * (1 - norm * (math.pi * t).cos()) ** 2,
    "increasing_decreasing": lambda path, t, norm: norm * (math.pi * t).sin() ** 2,
}
"""w(t), half the squared diffusion coefficient (Ma et al. 2024, where w is twice as large)."""

LEAST_SIGNAL = 1e-6
"""a(t) below which the VP process's own noise is taken for infinite."""

SOLVERS = ("euler", "heun")
LAST_STEPS = ("mean", "tweedie", "euler", "none")


class FlowSDE(FlowSampler):
    """From noise to data by dx = (-v + w(t) s) dt + sqrt(2 w(t)) dW, s = grad ln p_t(x_t) (Ma et al. 2024, eq. 5).

    `diffusion` names w, see `DIFFUSIONS`, and `norm` scales it; "linear" is REPA's, "sigma" SiT's default, and "sbdm",
    the VP process's own, is infinite at pure noise. The `solver` is "euler" (Euler-Maruyama, N evaluations) or "heun",
    which adds the noise first (2N - 1). The last step to t = 0 has no noise: "tweedie" is D, "mean" the drift alone,
    "euler" a step of the ODE, "none" is a step like the others. The published programs end at t = 0.04 before it,
    `schedule.t_min`. Weak order 1. Raises UserError for other names.
    """

    default_steps = 250
    preview = "flow_heun"

    def __init__(
        self,
        path: str | None = None,
        clamp: float = 0.0,
        diffusion: str = "sigma",
        norm: float = 1.0,
        solver: str = "euler",
        last_step: str = "tweedie",
    ):
        super().__init__(path, clamp)
        for name, value, choices in (
            ("diffusion", diffusion, DIFFUSIONS),
            ("solver", solver, SOLVERS),
            ("last_step", last_step, LAST_STEPS),
        ):
            if value not in choices:
                raise UserError(f"{name}={value!r} is unknown; choose from {', '.join(choices)}")
        if norm < 0:
            raise UserError(f"norm={norm:g} must not be negative")
        self.diffusion, self.norm, self.solver, self.last_step = diffusion, norm, solver, last_step

    def evaluations(self, num_steps: int) -> int:
        last = 1 if self.last_step != "none" or self.solver == "euler" else 2
        return (num_steps - 1) * (2 if self.solver == "heun" else 1) + last

    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback | None = None
    ) -> Tensor:
        self.check(sigmas, denoise)
        flow = self.flow(denoise, x, sigmas, callback)
        x, times = flow.start, flow.times
        without_noise = flow.ends[-1] and self.last_step != "none"
        for i in range(len(times) - 1 - without_noise):
            x = self.step(flow, x, times[i], times[i + 1], noise)
        return self.last(flow, x, times[-2]) if without_noise else flow.result(x)

    def check(self, sigmas: Tensor, denoise: Denoise) -> None:
        a, _ = self.path_for(denoise).scales(sigmas[0])
        if self.diffusion == "sbdm" and float(a.min()) < LEAST_SIGNAL:
            raise UserError(
                "diffusion=sbdm is infinite at pure noise; start later, e.g. by `set` schedule.t_max=0.999, or choose "
                "another sampler.diffusion"
            )

    def rate(self, flow: Flow, t: Tensor) -> Tensor:
        """Return w(t)."""
        return DIFFUSIONS[self.diffusion](flow.path, t, self.norm)

    def drift(self, flow: Flow, x: Tensor, t: Tensor, report: bool = True) -> Tensor:
        """Return -v + w s at x_t and t."""
        t = t.clamp_min(LEAST_TIME)
        x0 = flow.x0(x, t, report)
        return self.rate(flow, t) * flow.score(x, t, x0) - flow.velocity(x, t, x0)

    def step(self, flow: Flow, x: Tensor, t: Tensor, following: Tensor, noise: Noise) -> Tensor:
        """Return x_t at the following time."""
        h = t - following
        kick = (2 * self.rate(flow, t) * h).sqrt() * noise(x)
        if self.solver == "euler":
            return x + h * self.drift(flow, x, t) + kick
        x = x + kick
        first = self.drift(flow, x, t)
        second = self.drift(flow, x + h * first, following, report=False)
        return x + h / 2 * (first + second)

    def last(self, flow: Flow, x: Tensor, t: Tensor) -> Tensor:
        """Return the sample at t = 0 from x_t at t, without noise."""
        x0 = flow.x0(x, t)
        if self.last_step == "tweedie":
            return x0
        slope = -flow.velocity(x, t, x0)
        return x + t * (slope if self.last_step == "euler" else slope + self.rate(flow, t) * flow.score(x, t, x0))
