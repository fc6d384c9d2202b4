"""The sampler interface and helpers that samplers share.

A sampler is only a solver: the noise levels come from a schedule, and labels, guidance and coordinates are handled
inside `denoise`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from elucid.training.types import Prediction

Noise = Callable[[Tensor], Tensor]
"""Returns unit normal noise of the shape and dtype of its argument, e.g. `torch.randn_like`."""

Callback = Callable[[Tensor, Tensor, Tensor], None]
"""Called once per step with the noisy x [B,C,H,W], its noise level sigma, and the estimate x0."""


class Denoise(Protocol):
    """The denoiser that a sampler calls: denoise(x[B,C,H,W], sigma) -> Prediction.

    x0 has the dtype of x; sigma broadcasts against x. A `process` and `starts_from_noise`, as of `preconds.base`, are
    looked at if it has them.
    """

    @property
    def sigma_min(self) -> float: ...

    @property
    def sigma_max(self) -> float: ...

    def __call__(self, x: Tensor, sigma: Tensor) -> Prediction: ...

    def round_sigma(self, sigma: Tensor) -> Tensor: ...


class Sampler(ABC):
    """Base class: sampler(denoise, x, sigmas, noise, callback) takes x at sigmas[0] to a sample at sigmas[-1].

    `order` is the order of convergence in the step size (weak order for stochastic samplers). `default_steps` is the
    number of steps if the schedule sets none; samplers of flow matching can start `from_pure_noise`, at a noise level
    that stands for infinity (`noise.paths.PURE_NOISE`), and others get at most the denoiser's sigma_max.
    `default_schedule` names the schedule used if none is chosen, and `preview` the sampler for samples in few steps
    while training, None for this one.
    """

    order: int = 1
    default_steps: int = 18
    from_pure_noise: bool = False
    default_schedule: str = "karras"
    preview: str | None = None

    def evaluations(self, num_steps: int) -> int | None:
        """Return the number of denoiser evaluations (NFE) for `num_steps` steps, the last of them to 0.

        None if it is not known beforehand.
        """
        return num_steps

    def for_schedule(self, schedule, denoise: Denoise) -> "Sampler":
        """Return the sampler for this schedule and denoiser; `self` unless its equation depends on them."""
        return self

    def check(self, sigmas: Tensor, denoise: Denoise) -> None:  # noqa: B027 - most solve for any levels
        """Raise UserError if this sampler cannot start from these levels; called before anything is written."""

    @abstractmethod
    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback | None = None
    ) -> Tensor:
        """Take x [B,C,H,W] at sigmas[0] to a sample at sigmas[-1], in `state_dtype`.

        `sigmas` is decreasing, [N+1] or [N+1,B].
        """


def levels_for(sampler: Sampler, schedule, denoise, num_steps: int | None = None) -> Tensor:
    """Return the noise levels of a schedule at which a sampler samples a denoiser, checked.

    Samplers that cannot start from pure noise get at most the denoiser's sigma_max. Raises UserError for impossible
    levels.
    """
    sigmas = schedule(denoise, num_steps or sampler.default_steps)
    if not sampler.from_pure_noise and getattr(denoise, "starts_from_noise", False):
        sigmas = sigmas.clamp(max=denoise.sigma_max)
    sampler.check(sigmas, denoise)
    return sigmas


def state_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype in which samplers keep x: float64 where the device supports it."""
    return torch.float32 if device.type == "mps" else torch.float64


def state_and_steps(x: Tensor, sigmas: Tensor, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor, list[bool]]:
    """Return x in `dtype` or `state_dtype`, sigmas that broadcast against x, and a list telling which levels are 0.

    Levels [N+1] that all samples share stay on the host: steps are computed there, without a kernel each, and guidance
    can ask whether a level is in its interval without waiting for the device.
    """
    dtype = dtype or state_dtype(x.device)
    is_zero = (sigmas == 0).reshape(len(sigmas), -1).any(1).tolist()
    sigmas = sigmas.cpu().to(dtype) if sigmas.ndim == 1 else sigmas.to(x.device, dtype)
    return x.to(dtype), sigmas if sigmas.ndim == 1 else sigmas.reshape(len(sigmas), -1, 1, 1, 1), is_zero


def estimate(denoise: Denoise, x: Tensor, sigma: Tensor, callback: Callback | None) -> Tensor:
    """Return x0 of the first evaluation of a step, and report it to `callback`."""
    x0 = denoise(x, sigma).x0
    if callback is not None:
        callback(x, sigma, x0)
    return x0
