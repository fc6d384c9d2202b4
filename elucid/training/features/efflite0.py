"""The feature encoder `efflite0`: an inner map of EfficientNet-Lite0, whose weights an installed package has."""

import torch
import torch.nn.functional as F
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.pretrained.efficientnet_lite import (
    PACKAGE,
    STAGES,
    WEIGHTS_FILE,
    WEIGHTS_SHA256,
    WHAT,
    load_network,
)
from elucid.pretrained.weights import given_or_packaged, identify
from elucid.training.features.base import FeatureEncoder, require_weights

NAME = "features efflite0"
STRIDES = (2, 4, 8, 16, 16, 32, 32)
"""How much smaller than the input the maps after each stage are."""


class EfficientNetLiteFeatures(FeatureEncoder):
    """The map after a `stage`, 1 to 7, of EfficientNet-Lite0 (arXiv 1905.11946) on images resized to `size`, as tokens.

    Stage 5 has 112 channels on a grid of size/16. A `size` of 96 is several times as fast as 224, and enough for small
    images. Raises UserError if the package is not installed and no file of `weights` given, if `sha256` names others,
    and for sizes that are no multiples of 32.
    """

    def __init__(self, stage: int = 5, size: int = 224, weights: str | None = None, sha256: str | None = None):
        if not 1 <= stage <= len(STAGES):
            raise UserError(f"{NAME}: stage={stage} is none of its {len(STAGES)}, counted from 1")
        if size < 32 or size % 32:
            raise UserError(f"{NAME}: size={size} must be a multiple of 32, such as 96 or 224")
        self.stage, self.size = stage, size
        self.path = given_or_packaged(weights, PACKAGE, WEIGHTS_FILE, NAME, "`set` loss.features.weights")
        self.sha256 = identify(self.path, WEIGHTS_SHA256, WHAT, "its features are only comparable with each other")
        require_weights(NAME, self.sha256, sha256)
        self.dim, side = STAGES[stage - 1][3], size // STRIDES[stage - 1]
        self.grid = (side, side)

    def load(self) -> None:
        self.network = self.network or load_network(self.path)

    def features(self, images: Tensor) -> Tensor:
        x = images
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        x = (x * 127.5 + 0.5) / 128  # (u - 127) / 128 of values u in 0..255, as it was trained
        maps = self.network.maps(x.contiguous(memory_format=torch.channels_last), self.stage)
        return maps.flatten(2).transpose(1, 2)
