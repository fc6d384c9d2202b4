"""The noise levels at which flow matching samples: even steps of t, shifted."""

import math

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.paths import PURE_NOISE, Path, make_path, path_of
from elucid.training.noise.schedules import Karras, Schedule, ramp
from elucid.training.noise.times import require_shift, shifted


class FlowSteps(Schedule):
    """t_i = t_max (1 - i / N), i = 0 ... N, shifted by t' = s t / (1 + (s - 1) t); sigma_i = sigma(t_i) of the path.

    With `t_min` above 0, N levels go from t_max to t_min, both after the shift, and the last step from there to 0.
    `shift` multiplies sigma on the linear path: sqrt of the ratio of pixels or tokens (Esser et al. 2024), 1 / 0.3 for
    LightningDiT. `path` is the denoiser's, linear if it has none. t = 1 is pure noise, where the model and the sampler
    start from it; else the first level is the denoiser's sigma_max, or 80, as of EDM's schedule, if it has none.
    `sigma_min`, `sigma_max` are the same ends as noise levels. Raises UserError unless 0 <= t_min < t_max <= 1.
    """

    default_range = (0.0, PURE_NOISE)

    def __init__(
        self,
        num_steps: int | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        shift: float = 1.0,
        t_min: float = 0.0,
        t_max: float = 1.0,
        path: str | None = None,
    ):
        super().__init__(num_steps, sigma_min, sigma_max)
        if not 0 <= t_min < t_max <= 1:
            raise UserError(f"times from t_min={t_min:g} to t_max={t_max:g}: need 0 <= t_min < t_max <= 1")
        self.shift, self.t_min, self.t_max = require_shift(shift), t_min, t_max
        if path is not None:
            make_path(path)
        self.path = path

    def levels(self, num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
        return self.on_path(make_path(self.path or "linear"), num_steps, sigma_min, sigma_max)

    def on_path(self, path: Path, num_steps: int, sigma_min: float, sigma_max: float) -> Tensor:
        """Return the levels above 0 on a path; they are cut off at sigma_max, and end at sigma_min if that is above 0.

        A shifted grid starts at sigma_max, too, as its first t is then that of sigma_max before the shift.
        """
        low, high = (self._before_shift(path, torch.tensor(one, dtype=torch.float64)) for one in (sigma_min, sigma_max))
        t_min, t_max = (shifted(torch.tensor(t, dtype=torch.float64), 1 / self.shift) for t in (self.t_min, self.t_max))
        last, first = max(float(low), float(t_min)), min(float(high), float(t_max))
        if last >= first:
            raise UserError(
                f"no times between t={last:g} and {first:g}; change `sigma_min`, `sigma_max`, schedule.t_min or t_max"
            )
        fraction = ramp(num_steps) if last > 0 else torch.arange(num_steps, dtype=torch.float64) / num_steps
        return path.sigma(shifted(first + fraction * (last - first), self.shift))

    def _before_shift(self, path: Path, sigma: Tensor) -> Tensor:
        t = path.time(sigma) if sigma < path.sigma_end else torch.ones_like(sigma)
        return shifted(t, 1 / self.shift)

    def __call__(self, denoise, num_steps: int = 18) -> Tensor:
        own = path_of(denoise)
        path = own if self.path is None else make_path(self.path, own.noise_scale)
        low = max(self.sigma_min or 0.0, denoise.sigma_min)
        if getattr(denoise, "starts_from_noise", False):
            largest = path.sigma_end
        else:
            largest = denoise.sigma_max if math.isfinite(denoise.sigma_max) else Karras.default_range[1]
        high = min(self.sigma_max or PURE_NOISE, largest)
        levels = denoise.round_sigma(self.on_path(path, self.num_steps or num_steps, low, high))
        return torch.cat([levels, levels.new_zeros(1)])
