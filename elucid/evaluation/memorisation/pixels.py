"""Pixels as features, for small and simple images such as digits."""

import hashlib

import torch
from torch import Tensor

from elucid.metrics.detectors import Detector


class Pixels(Detector):
    """Features f32[B,C*H*W]: the pixels of images of one shape (C, H, W), in [0, 1]; not resized, no weights."""

    name, resize = "pixels", "none"

    def __init__(self, shape: tuple[int, int, int], device: torch.device):
        channels, height, width = shape
        self.channels, self.device, self.dim = channels, device, channels * height * width
        self.sha256 = hashlib.sha256(f"pixels {channels}x{height}x{width}".encode()).hexdigest()

    def features(self, images: Tensor) -> Tensor:
        return images[:, : self.channels].flatten(1).to(torch.float32) / 255
