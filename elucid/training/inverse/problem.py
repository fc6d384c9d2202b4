"""An inverse problem: an operator, its noise and a measurement, in the network's normalised units."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.inverse.checks import called, operator_name, require_adjoint, require_linear
from elucid.training.inverse.noise import GaussianNoise, MeasurementNoise
from elucid.training.inverse.operators.base import Constant, LinearOperator

Affine = tuple[Tensor, Tensor]
"""Scale [C] and offset [C] of an encoder: own units u = scale x + offset of normalised ones x."""


class Observation(NamedTuple):
    """What a measurement says of normalised images x: value [B,...] = A (scale x) + N(0, variance)."""

    value: Tensor
    variance: Tensor


class InverseProblem:
    """y = A u + noise for images u of `shape` [C,H,W] in own units, as y - A offset = (A scale) x + noise.

    `affine` is that of the encoder (`Affine`). `measurement` y, [...] or [1 or B,...], is the default of all samples.
    The operator is tried with random images. Raises UserError for an encoder that is not affine, an operator that is
    not linear or has another adjoint, and a measurement that it cannot make (`require`).
    """

    def __init__(
        self,
        operator: LinearOperator,
        affine: Affine | None,
        shape: Sequence[int],
        noise: MeasurementNoise | None = None,
        measurement: Tensor | None = None,
    ):
        if affine is None:
            raise UserError(
                "`operator`: the images of this model are no affine function of what its network makes, as of latents; "
                "choose a model of pixels or arrays"
            )
        self.operator, self.shape, self.noise = operator, tuple(shape), noise or GaussianNoise()
        self.scale, self.offset = (Constant(as_channels(one, self.shape[0])) for one in affine)
        require_linear(operator, self.shape)
        require_adjoint(operator, self.shape)
        random = torch.randn(1, *self.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        made = called(operator, "__call__", random)
        self.measured_shape = tuple(made.shape[1:])
        self.reached = made[0] != 0  # not where a mask hides the images
        self.measurement = None if measurement is None else self.require(torch.as_tensor(measurement))

    @cached_property
    def units(self) -> Constant:
        """Own units of a normalised one, for numbers [1,...] of a measurement: of its channel, if it has the image's.

        Else the root mean square of all. Residuals in these units weigh channels alike, whatever they are measured in.
        """
        if self.measured_shape[:1] == self.shape[:1]:
            return Constant(self.scale.value.abs().reshape(1, -1, *(1,) * (len(self.measured_shape) - 1)))
        return Constant(self.scale.value.square().mean().sqrt().reshape((1,) * (1 + len(self.measured_shape))))

    def require(self, y: Tensor) -> Tensor:
        """Return a measurement as [B,...], with 0 where nothing is measured. Raises UserError if it is impossible.

        That is another shape than the operator's, numbers that are not finite, negative ones with Poisson noise.
        """
        y = y if y.is_floating_point() else y.to(torch.float64)
        y = y[None] if tuple(y.shape) == self.measured_shape else y
        if tuple(y.shape[1:]) != self.measured_shape or not len(y):
            raise UserError(
                f"`measurement` is {list(y.shape)}, but {operator_name(self.operator)} makes "
                f"{list(self.measured_shape)} of images of {list(self.shape)}; give one of that shape"
            )
        observed = getattr(self.operator, "observed", None)
        y = y if observed is None else observed(y)
        if not bool(y.isfinite().all()):
            raise UserError("`measurement` has numbers that are not finite; leave them out by a mask (inpaint)")
        self.noise.require(y)
        return y

    def observe(self, y: Tensor | None, like: Tensor) -> Observation:
        """Return the observation of y, by default the problem's, for images like these. Raises UserError (`require`).

        Also if there is none, or a number of measurements that is neither 1 nor that of the images.
        """
        y = self.measurement if y is None else self.require(y)
        if y is None:
            raise UserError('`operator` needs a `measurement`, or one for each sample in cond["measurement"]')
        if len(y) not in (1, len(like)):
            raise UserError(f"`measurement`: there are {len(y)} for {len(like)} samples; give one, or one for each")
        y = y.to(like.device, like.dtype)
        offset = self.offset.like(y).expand(1, *self.shape)
        return Observation(self.noise.value(y) - self.operator(offset).to(y.dtype), self.noise.variance(y))

    def measure(self, x: Tensor) -> Tensor:
        """Return A (scale x) [B,...] of normalised images x [B,C,H,W]."""
        return self.operator(self.scale.like(x) * x).to(x.dtype)

    def adjoint(self, r: Tensor) -> Tensor:
        """Return scale A^T r [B,C,H,W], the adjoint of `measure`."""
        return self.scale.like(r) * self.operator.adjoint(r).to(r.dtype)


def as_channels(values: Tensor | Sequence[float], channels: int) -> Tensor:
    """Return numbers of the channels, one for all or one each, float64 [C,1,1]. Raises UserError for another number."""
    values = torch.as_tensor(values, dtype=torch.float64).reshape(-1, 1, 1)
    if len(values) not in (1, channels):
        raise UserError(f"the encoder has {len(values)} channels, the images {channels}; choose the model's own data")
    return values.expand(channels, 1, 1)
