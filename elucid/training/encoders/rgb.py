"""The encoder of images: scales uint8 pixels to [-1, 1] and back."""

import torch
from torch import Tensor

from elucid.training.encoders.base import Encoder


class RGB(Encoder):
    """x = u / 127.5 - 1 and back u = trunc(clip(x * 127.5 + 128, 0, 255)); gray images have one channel."""

    @property
    def affine(self) -> tuple[Tensor, Tensor]:
        """One scale and offset for any number of channels; 127.5 each, to which the rounding of `decode` is nearest."""
        return torch.full((1,), 127.5, dtype=torch.float64), torch.full((1,), 127.5, dtype=torch.float64)

    def encode(self, raw: Tensor) -> Tensor:
        """u8 [B,C,H,W] -> f32 [B,C,H,W] in [-1, 1]."""
        return raw.to(torch.float32) / 127.5 - 1

    def decode(self, x: Tensor) -> Tensor:
        """Float [B,C,H,W] -> u8 [B,3,H,W]; gray is repeated."""
        images = (x * 127.5 + 128).clip(0, 255).to(torch.uint8)
        return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
