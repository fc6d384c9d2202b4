"""DPM-Solver++(2M): second order with one evaluation per step (Lu et al. 2022, arXiv 2211.01095, algorithm 2)."""

import torch
from torch import Tensor

from elucid.training.samplers.base import Callback, Denoise, Noise, Sampler, estimate, state_and_steps


class DPMpp2MSampler(Sampler):
    """x' = (sigma'/sigma) x + (1 - sigma'/sigma) ((1 + c) D_i - c D_(i-1)), c = h_i / (2 h_(i-1)), N evaluations.

    h_i = ln(sigma_i / sigma_(i+1)) is the step in half log-SNR. The solver extrapolates D linearly in half log-SNR from
    the last two predictions. c = 0 in the first step and in the last one, to 0.
    """

    order = 2
    default_steps = 20

    def __call__(
        self, denoise: Denoise, x: Tensor, sigmas: Tensor, noise: Noise, callback: Callback | None = None
    ) -> Tensor:
        x, sigmas, is_zero = state_and_steps(x, sigmas)
        previous_x0 = previous_h = None
        for i in range(len(sigmas) - 1):
            x0 = estimate(denoise, x, sigmas[i], callback)
            if is_zero[i + 1]:
                return x0
            ratio = sigmas[i + 1] / sigmas[i]
            h = -ratio.log()
            target = x0
            if i > 0:
                # Two levels rounded to the same value give h = 0 and no slope for the next step.
                target = x0 + torch.where(previous_h > 0, h / (2 * previous_h), 0.0) * (x0 - previous_x0)
            x = ratio * x + (1 - ratio) * target
            previous_x0, previous_h = x0, h
        return x
