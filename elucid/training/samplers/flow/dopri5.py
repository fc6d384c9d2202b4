"""An adaptive solver of flow matching's equation: Dormand and Prince's pair of orders 5 and 4."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.samplers.base import Callback, Denoise, Noise
from elucid.training.samplers.flow.base import Flow, FlowSampler

NODES = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
"""Coefficients of the stages (Dormand & Prince 1980); the last stage is the step itself."""
ERROR = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)
"""Difference of the steps of orders 5 and 4."""

FIRST_STEP, MOST_STEPS = 0.02, 10_000
SAFETY, LEAST_FACTOR, MOST_FACTOR = 0.9, 0.2, 10.0


class Dopri5(FlowSampler):
    """dx_t/dt = v with steps whose error is about `atol` + `rtol` |x_t| in the mean square of an image.

    Each image has steps of its own, so that it does not depend on the others of its batch. Only the first and the last
    level of a schedule count. The number of evaluations is not known beforehand: 6 per step, those that are too
    inaccurate and repeated included. Raises UserError unless the tolerances are above 0.
    """

    order = 5
    preview = "flow_heun"

    def __init__(self, path: str | None = None, clamp: float = 0.0, rtol: float = 1e-3, atol: float = 1e-6):
        super().__init__(path, clamp)
        if not (rtol > 0 and atol > 0):
            raise UserError(f"rtol={rtol:g} and atol={atol:g} must be above 0; SiT uses 1e-3 and 1e-6")
        self.rtol, self.atol = rtol, atol

    def evaluations(self, num_steps: int) -> None:
        """Return None, as the number depends on the images."""

    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback | None = None
    ) -> Tensor:
        flow = self.flow(denoise, x, sigmas, callback)
        x = flow.start
        t, end = (one.to(x.device).expand(len(x), 1, 1, 1) for one in (flow.times[0], flow.times[-1]))
        h = (end - t) * FIRST_STEP
        slope = flow.slope(x, t)
        for _ in range(MOST_STEPS):
            if bool((t == end).all()):
                return flow.result(x)
            h = torch.where((t + h - end).abs() < 1e-12, end - t, torch.maximum(h, end - t))
            moved, last, error = self.step(flow, x, t, h, slope)
            size = self.atol + self.rtol * torch.maximum(x.abs(), moved.abs())
            ratio = (error / size).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
            fine = ratio <= 1
            x, slope = torch.where(fine, moved, x), torch.where(fine, last, slope)
            t = torch.where(fine, torch.where(h == end - t, end, t + h), t)
            factor = (SAFETY * ratio.clamp_min(1e-10) ** -0.2).clamp(LEAST_FACTOR, MOST_FACTOR)
            h = torch.where(t == end, 0.0, h * factor)
        raise UserError(f"dopri5 has not ended after {MOST_STEPS} steps; raise sampler.rtol or sampler.atol")

    def step(self, flow: Flow, x: Tensor, t: Tensor, h: Tensor, first: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return x_t after a step h [B,1,1,1], the slope there, and an estimate of the step's error."""
        slopes = [first]
        for node, row in zip(NODES[1:], STAGES[1:], strict=True):
            moved = x + h * sum(factor * slope for factor, slope in zip(row, slopes, strict=True) if factor)
            slopes.append(flow.slope(moved, t + node * h, report=node == 1 and len(slopes) == 6))
        error = h * sum(factor * slope for factor, slope in zip(ERROR, slopes, strict=True) if factor)
        return moved, slopes[-1], error
