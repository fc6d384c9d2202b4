"""Heun's method in t for flow matching."""

from torch import Tensor

from elucid.training.samplers.base import Callback, Denoise, Noise
from elucid.training.samplers.flow.base import FlowSampler


class FlowHeun(FlowSampler):
    """x' = x_t + (t' - t) (v(x_t, t) + v(x_t + (t' - t) v, t')) / 2, with an Euler step to t = 0; 2N - 1 evaluations.

    `last_euler` False takes a second slope close to t = 0, too, as SiT does: 2N evaluations.
    """

    order = 2
    default_steps = 25

    def __init__(self, path: str | None = None, clamp: float = 0.0, last_euler: bool = True):
        super().__init__(path, clamp)
        self.last_euler = last_euler

    def evaluations(self, num_steps: int) -> int:
        return 2 * num_steps - 1 if self.last_euler else 2 * num_steps

    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback | None = None
    ) -> Tensor:
        flow = self.flow(denoise, x, sigmas, callback)
        x, times = flow.start, flow.times
        for i, (t, following) in enumerate(zip(times[:-1], times[1:], strict=True)):
            slope = flow.slope(x, t)
            if not (self.last_euler and flow.ends[i + 1]):
                slope = (slope + flow.slope(x + (following - t) * slope, following, report=False)) / 2
            x = x + (following - t) * slope
        return flow.result(x)
