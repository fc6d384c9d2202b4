"""What every encoder is: between what a dataset stores and what the network sees."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from elucid.training.types import NetSpec


class Encoder(ABC):
    """Stored data [B,C,H,W] to float images or latents, and back to pictures."""

    factor: int = 1
    """How many times larger the sides of decoded pictures are than what the network sees."""

    @property
    def metadata(self) -> dict:
        """Options that the encoder itself found out, e.g. the hash of weights that it has loaded."""
        return {}

    def adapt(self, spec: NetSpec) -> NetSpec:
        """What the network sees of the dataset that `spec` describes."""
        return spec

    def check(self, spec: NetSpec) -> None:  # noqa: B027 - most fit any network
        """Raise UserError if a network of this spec does not make what this encoder decodes."""

    def to(self, device: torch.device | str) -> "Encoder":
        """Move to a device, with weights if there are any."""
        return self

    @abstractmethod
    def encode(self, raw: Tensor) -> Tensor:
        """Stored data -> f32 [B,C,H,W], images in [-1, 1]."""

    @abstractmethod
    def decode(self, x: Tensor) -> Tensor:
        """Float [B,C,H,W] -> u8 [B,3,H,W]."""
