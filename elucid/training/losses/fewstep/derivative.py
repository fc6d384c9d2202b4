"""A function of a point and a time, and its derivative along a curve, as losses of continuous time need them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.rng import random_state, random_state_kept, set_random_state
from elucid.training.losses.consistency import at_precision
from elucid.training.networks.attention import jvp
from elucid.training.preconds.base import Denoiser

DERIVATIVES = ("forward", "difference")
NORMS = ("norm", "rms")
"""What a tangent is divided by: its Euclidean norm, or that by the root of its number of elements."""

RELATIVE_STEP = 1e-3
"""The step of finite differences by the time, FastGen's: as good at small times, where levels change with ln t."""

Function = Callable[[Tensor, Tensor], Tensor]
Move = Callable[[Tensor, Tensor, Tensor], Tensor]


def line(x: Tensor, dx: Tensor, h: Tensor) -> Tensor:
    """Return x + h dx."""
    return x + h * dx


def arc(x: Tensor, dx: Tensor, h: Tensor) -> Tensor:
    """Return cos(h) x + sin(h) dx, on the circle that x_t = cos(t) y + sin(t) z moves on."""
    return h.cos() * x + h.sin() * dx


def require_derivative(name: str) -> str:
    """Return the name. Raises UserError if it is unknown."""
    if name not in DERIVATIVES:
        raise UserError(f"loss.derivative={name!r} is unknown; choose from {', '.join(DERIVATIVES)}")
    return name


def whole_precision(denoiser: Denoiser | None) -> AbstractContextManager:
    """Return a context in which a denoiser of lower precision runs in float32."""
    lower = denoiser is not None and denoiser.precision in ("bf16", "fp16", "tf32")
    return at_precision(denoiser, "fp32") if lower else nullcontext()


def with_derivative(
    function: Function,
    x: Tensor,
    t: Tensor,
    dx: Tensor,
    how: str = "forward",
    rate: Tensor | float = 1.0,
    move: Move = line,
    step: Tensor | None = None,
    end: float = 1.0,
    denoiser: Denoiser | None = None,
) -> tuple[Tensor, Tensor]:
    """Return f(x, t), with gradient, and rate df/dt along (dx, 1), without; x, dx [B,C,H,W], t [B,1,1,1] > 0.

    "forward": by automatic differentiation, in a pass of its own with the same dropout masks, which costs less than the
    graph that backpropagation would keep of it; f itself may be compiled. "difference": (f(t + h) - f(t - h)) / 2h, of
    points on the curve `move`, for kernels that have no forward derivative: three passes with the same dropout masks;
    h is `step`, by default t / 1000. Beyond the time `end` f is not asked: there the difference is one-sided. Both ends
    are in float32, of whose digits a difference leaves few: give the `denoiser` whose precision is lower.
    """
    rate = torch.as_tensor(rate, dtype=t.dtype, device=t.device).expand_as(t)
    state = random_state(x.device)
    value = function(x, t)
    if how == "forward":
        with torch.no_grad(), random_state_kept(x.device):
            set_random_state(state, x.device)
            return value, jvp(function, (x, t), (rate * dx, rate))[1]
    h = RELATIVE_STEP * t if step is None else step
    up = torch.minimum(h, (end - t).clamp_min(0))
    with torch.no_grad(), random_state_kept(x.device), whole_precision(denoiser):
        ends = []
        for distance in (up, -h):
            set_random_state(state, x.device)
            ends.append(function(move(x, dx, distance), t + distance))
    return value, rate * (ends[0] - ends[1]) / (up + h)
