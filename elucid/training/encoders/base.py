"""Base class of encoders, between the stored data and the network's images or latents."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from elucid.training.types import NetSpec


class Encoder(ABC):
    """Base class: encodes stored data [B,C,H,W] to float images or latents, and decodes them to pictures or arrays."""

    factor: int = 1
    """Ratio of the sides of decoded images to those of the network's input."""

    pictures: bool = True
    """Whether it decodes to pictures, u8 [B,3,H,W], and not to arrays of the data's own channels, type and units."""

    @property
    def affine(self) -> tuple[Tensor, Tensor] | None:
        """Scale and offset f64[C] by which normalised values are in the data's own units, u = scale * x + offset.

        None if encoding is not such a map, or may not be one.
        """
        return None

    @property
    def metadata(self) -> dict:
        """Options determined by the encoder itself, e.g. the hash of its weights."""
        return {}

    def adapt(self, spec: NetSpec) -> NetSpec:
        """Convert the spec of the dataset to that of the network's input."""
        return spec

    def check(self, spec: NetSpec) -> None:  # noqa: B027 - most work with any network
        """Raise UserError if this encoder cannot decode the output of a network with this spec."""

    def to(self, device: torch.device | str) -> "Encoder":
        """Move to a device, including weights, if any."""
        return self

    @abstractmethod
    def encode(self, raw: Tensor) -> Tensor:
        """Stored data -> f32 [B,C,H,W], pictures in [-1, 1]."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """Float [B,C,H,W] -> u8 [B,3,H,W], or arrays [B,C,H,W] of the data's own type and units."""
