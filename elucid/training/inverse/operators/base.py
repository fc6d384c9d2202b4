"""Base class of the operators that measure images."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor


class LinearOperator(ABC):
    """A linear map y = A u of images u [B,C,H,W] in the data's own units to measurements [B,...], and its adjoint.

    For any number of samples, each for itself, in the dtype (float32 or float64) and on the device of the argument.
    `adjoint` is that of the real inner product, <A u, y> = <u, A^T y>. Any class with both methods is one, derived from
    this or not.
    """

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Return A u [B,...] of images u [B,C,H,W]."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """Return A^T y [B,C,H,W] of y [B,...]."""

    def observed(self, y: Tensor) -> Tensor:
        """Return y with 0 in the places that A does not measure, whatever is there; by default all are measured."""
        return y

    @property
    def metadata(self) -> dict[str, Any]:
        """What its options do not say, e.g. the hash of a file."""
        return {}

    @classmethod
    def __subclasshook__(cls, other: type) -> Any:
        if cls is not LinearOperator:
            return NotImplemented
        methods = {name for one in other.__mro__ for name in vars(one)}
        return methods >= {"__call__", "adjoint"} or NotImplemented


class Constant:
    """A tensor of an operator, kept once for each device and dtype in which images came."""

    def __init__(self, value: Tensor):
        self.value = value
        self._copies: dict[tuple, Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """Return it on the device and with the precision of x."""
        key = (x.device, x.dtype)
        if key not in self._copies:
            dtype = torch.promote_types(x.dtype, torch.complex64) if self.value.is_complex() else x.dtype
            self._copies[key] = self.value.to(x.device, dtype)
        return self._copies[key]
