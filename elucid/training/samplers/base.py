"""What samplers share: the denoiser they call, their number type, and what each says of itself.

A sampler is a solver alone: where it stops on the way is chosen by a schedule, and everything that changes what is
denoised (labels, guidance, coordinates) is inside `denoise`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from elucid.training.types import Prediction

Noise = Callable[[Tensor], Tensor]
"""Unit normal noise of the shape and type of its argument, e.g. `torch.randn_like`."""

Callback = Callable[[Tensor, Tensor, Tensor], None]
"""Called once per step with x [B,C,H,W] as it is denoised, its level sigma, and the estimate x0."""


class Denoise(Protocol):
    """What a sampler calls: denoise(x[B,C,H,W], sigma) -> Prediction, x0 of x's type; sigma broadcasts against x."""

    sigma_min: float
    sigma_max: float

    def __call__(self, x: Tensor, sigma: Tensor) -> Prediction: ...

    def round_sigma(self, sigma: Tensor) -> Tensor: ...


class Sampler(ABC):
    """Base: sampler(denoise, x, sigmas, noise, callback) walks from x at sigmas[0] to the sample at sigmas[-1].

    `order` is that of the error in the step (of a stochastic sampler, in the distribution); `default_steps` are taken
    where the schedule says no number.
    """

    order: int = 1
    default_steps: int = 18

    def evaluations(self, num_steps: int) -> int:
        """How often the denoiser is called in this number of steps, the last of them to 0."""
        return num_steps

    def bound(self, schedule, denoise: Denoise) -> "Sampler":
        """The sampler for this schedule and denoiser; itself, unless its equation depends on them."""
        return self

    @abstractmethod
    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback | None = None
    ) -> Tensor:
        """From x [B,C,H,W] at sigmas[0] to the sample at sigmas[-1]; sigmas fall, [N+1] or [N+1,B] (float64 state)."""


def state_dtype(device: torch.device) -> torch.dtype:
    """The number type in which a sampler keeps x: float64 where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def state_and_steps(x: Tensor, sigmas: Tensor) -> tuple[Tensor, Tensor, list[bool]]:
    """x in float64 where its device has it, sigmas shaped to broadcast against it, and which levels are 0."""
    dtype = state_dtype(x.device)
    is_zero = (sigmas == 0).reshape(len(sigmas), -1).any(1).tolist()
    return x.to(dtype), sigmas.to(x.device, dtype).reshape(len(sigmas), -1, 1, 1, 1), is_zero


def estimate(denoise: Denoise, x: Tensor, sigma: Tensor, callback: Callback | None) -> Tensor:
    """x0 of the first evaluation of a step, of which `callback` is told."""
    x0 = denoise(x, sigma).x0
    if callback is not None:
        callback(x, sigma, x0)
    return x0
