"""The preconditioner of flow matching: a network sees x_t and t, and predicts a velocity, image, noise or score."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.noise.paths import Path, make_path
from elucid.training.preconds.base import Coefficients, Denoiser
from elucid.training.types import Cond, NetSpec

PREDICTIONS = ("v", "x", "epsilon", "score")
TIMES = ("noise", "data")
SECOND = ("difference", "time")
EDGE = 1e-3
"""1 - t of the default sigma_max on the linear path, and the distance of times from the ends."""


class FlowPrecond(Denoiser):
    """Flow matching in sigma space: x = x_t / a(t), sigma = b / a of the path x_t = a x0 + b n (Lipman et al. 2023).

    c_in = a, and with W = a b' - a' b the network's prediction gives D as
    v = dx_t/dt: c_skip = a b' / W, c_out = -b / W; x: 0 and 1; epsilon: 1 and -sigma; score of x_t: 1 and a sigma^2.
    On the linear path, with v: c_skip = c_in = 1 / (1 + sigma), c_out = -sigma / (1 + sigma).

    `path` is a name of `noise.paths`, `noise_scale` its c. c_noise = `time_scale` t, where t = 1 is "noise" as here or
    "data", which also turns the velocity around. sigma is from 0 to `sigma_max` for samplers in sigma space, by default
    999 times the noise scale; samplers that keep x_t start from
    pure noise if v or x is predicted. The network of a flow map is told how far the second time is (`second`
    "difference"), or that "time".
    """

    uses_all_parameters = True
    latent_std = 1.0
    default_loss = "flow"
    default_sampler, default_schedule = "flow_heun", "flow"

    def __init__(
        self,
        model,
        spec: NetSpec,
        precision: str = "fp32",
        path: str = "linear",
        prediction: str = "v",
        time: str = "noise",
        time_scale: float = 1.0,
        noise_scale: float = 1.0,
        sigma_max: float | None = None,
        second: str = "difference",
    ):
        super().__init__(model, spec, precision)
        given = {"prediction": (prediction, PREDICTIONS), "time": (time, TIMES), "second": (second, SECOND)}
        for name, (value, choices) in given.items():
            if value not in choices:
                raise UserError(f"precond.{name}={value!r} is unknown; choose from {', '.join(choices)}")
        if sigma_max is not None and sigma_max <= 0:
            raise UserError(f"precond.sigma_max={sigma_max:g} must be above 0")
        self.process = make_path(path, noise_scale)
        self.prediction, self.time, self.time_scale, self.second = prediction, time, time_scale, second
        largest = min(noise_scale * (1 / EDGE - 1), self.process.sigma_end)
        self.sigma_max = largest if sigma_max is None else float(sigma_max)

    def coefficients(self, sigma: Tensor) -> Coefficients:
        path: Path = self.process
        t = path.time(sigma)
        (a, _), one = path.scales(sigma), torch.ones_like(t)
        c_noise = self.time_scale * (t if self.time == "noise" else 1 - t)
        if self.prediction == "x":
            return Coefficients(torch.zeros_like(t), one, a, c_noise)
        if self.prediction == "epsilon":
            return Coefficients(one, -sigma, a, c_noise)
        if self.prediction == "score":
            return Coefficients(one, a * sigma**2, a, c_noise)
        c_skip, c_out = path.of_velocity(sigma)
        return Coefficients(c_skip, -c_out if self.time == "noise" else c_out, a, c_noise)

    @property
    def starts_from_noise(self) -> bool:  # type: ignore[override]  # read-only here
        """Whether D is finite at pure noise: not for a predicted noise or score, which D contains times sigma."""
        return self.prediction in ("v", "x")

    @property
    def edge(self) -> float:
        """Distance of training times from both ends, where the weight of another prediction than v is infinite."""
        return EDGE if self.prediction != "v" else 1e-5

    def level_to(self, sigma: Tensor, sigma_to: Tensor) -> Tensor:
        path: Path = self.process
        return self.time_to(path.time(sigma), path.time(sigma_to))

    def time_to(self, t: Tensor, t_to: Tensor) -> Tensor:
        """Return what the network is told of the time that a step from t ends at: it, or how far it is."""
        if self.second == "difference":
            return self.time_scale * (t - t_to)
        return self.time_scale * (t_to if self.time == "noise" else 1 - t_to)

    def velocity(self, x: Tensor, t: Tensor, t_to: Tensor | None = None, cond: Cond | None = None) -> Tensor:
        """Return the network's v at x_t [B,C,H,W] and t [B,1,1,1], of a flow map the mean v on the way to `t_to`.

        x_t = a x0 + b n is the network's own input, so that derivatives along t are exact. Raises UserError if it
        predicts another quantity.
        """
        if self.prediction != "v":
            raise UserError(f"precond.prediction={self.prediction!r} gives no velocity; use precond.prediction=v")
        one = torch.ones_like(t)
        c_noise = self.time_scale * (t if self.time == "noise" else 1 - t)
        cond = self.condition(x, {"sigma_to": x.new_zeros(len(x)), **(cond or {})})
        if "sigma_to" in self.spec.vector:
            cond["sigma_to"] = self.time_to(t, t if t_to is None else t_to).reshape(-1, 1)
        v, _ = self.output(x, Coefficients(0 * one, one, one, c_noise), cond)
        return v[:, : x.shape[1]] if self.time == "noise" else -v[:, : x.shape[1]]

    def level(self, c_noise: Tensor) -> Tensor:
        return c_noise / self.time_scale
