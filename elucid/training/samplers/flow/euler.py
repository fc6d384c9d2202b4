"""Euler's method in t for flow matching."""

from torch import Tensor

from elucid.training.samplers.base import Callback, Denoise, Noise
from elucid.training.samplers.flow.base import FlowSampler


class FlowEuler(FlowSampler):
    """x' = x_t + (t' - t) v(x_t, t), N evaluations.

    On the linear path this is Euler's method in sigma, that is DDIM, at the same levels.
    """

    default_steps = 50

    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback | None = None
    ) -> Tensor:
        flow = self.flow(denoise, x, sigmas, callback)
        x, times = flow.start, flow.times
        for t, following in zip(times[:-1], times[1:], strict=True):
            x = x + (following - t) * flow.slope(x, t)
        return flow.result(x)
