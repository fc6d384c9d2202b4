"""What samplers of flow matching share: the path, x_t, and its velocity."""

import torch
from torch import Tensor

from elucid.training.noise.paths import PURE_NOISE, Path, make_path, path_of
from elucid.training.samplers.base import Callback, Denoise, Sampler, estimate, state_dtype

LEAST_TIME = 1e-4
"""t at which a slope at the data's end is taken: there, v is a quotient of two zeros."""


class FlowSampler(Sampler):
    """Base class of solvers of dx_t/dt = v, v = (b' x_t - W D(x_t / a; sigma)) / b with W = a b' - a' b.

    Steps are even in t for the schedule `flow`. `path` is a name of `noise.paths`, by default the denoiser's, linear if
    it has none. In v, b is at least `clamp`, which is 0.05 in JiT's own sampler and leaves noise in its images.
    """

    from_pure_noise = True
    default_schedule = "flow"

    def __init__(self, path: str | None = None, clamp: float = 0.0):
        if path is not None:
            make_path(path)
        self.path, self.clamp = path, clamp

    def flow(self, denoise: Denoise, x: Tensor, sigmas: Tensor, callback: Callback | None) -> "Flow":
        """Return the equation, with x [B,C,H,W] at sigmas[0] of [N+1] or [N+1,B] in its own form."""
        return Flow(denoise, self.path_for(denoise), x, sigmas, self.clamp, callback)

    def path_for(self, denoise: Denoise) -> Path:
        """Return the chosen path, with the noise scale of the denoiser's own, or that."""
        own = path_of(denoise)
        return own if self.path is None else make_path(self.path, own.noise_scale)


class Flow:
    """The equation for one batch: times t [N+1] or [N+1,B,1,1,1], and x_t [B,C,H,W] at the first of them."""

    def __init__(
        self, denoise: Denoise, path: Path, x: Tensor, sigmas: Tensor, clamp: float, callback: Callback | None
    ):
        dtype = state_dtype(x.device)
        # Shared levels stay on the host, as in `samplers.base.state_and_steps`.
        sigmas = sigmas.cpu().to(dtype) if sigmas.ndim == 1 else sigmas.to(x.device, dtype).reshape(-1, len(x), 1, 1, 1)
        self.denoise, self.path, self.clamp, self.callback = denoise, path, clamp, callback
        self.times = path.time(sigmas)
        self.ends = (sigmas == 0).reshape(len(sigmas), -1).any(1).tolist()
        t, sigma = self.times[0], sigmas[0]
        # x = x_t / a, where a may be too small to divide by; c b / sigma is the same.
        self.start = x.to(dtype) * (path.noise_scale * path.b(t) / sigma)

    def x0(self, x: Tensor, t: Tensor, report: bool = True) -> Tensor:
        """Return D at x_t and t, and report it to the callback."""
        path, a = self.path, self.path.a(t)
        scale = torch.maximum(a, path.noise_scale * path.b(t) / PURE_NOISE)
        sigma = path.noise_scale * path.b(t) / scale
        return estimate(self.denoise, x / scale, sigma, self.callback if report else None)

    def velocity(self, x: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        """Return v = dx_t/dt at x_t and t, where D is x0."""
        b = self.path.b(t).clamp_min(self.clamp)
        return (self.path.b_slope(t) * x - self.path.wronskian(t) * x0) / b

    def slope(self, x: Tensor, t: Tensor, report: bool = True) -> Tensor:
        """Evaluate D for the velocity at x_t and t; at t = 0 just before."""
        t = t.clamp_min(LEAST_TIME)
        return self.velocity(x, t, self.x0(x, t, report))

    def score(self, x: Tensor, t: Tensor, x0: Tensor) -> Tensor:
        """Return grad ln p_t(x_t) = (a D - x_t) / (c b)^2."""
        return (self.path.a(t) * x0 - x) / (self.path.noise_scale * self.path.b(t)) ** 2

    def result(self, x: Tensor) -> Tensor:
        """Return x_t at the last time as x = x_t / a."""
        return x / self.path.a(self.times[-1])
