"""The feature encoder `dinov2`: the patch tokens of DINOv2 (Oquab et al. 2023, arXiv 2304.07193)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from elucid.dnnlib import files
from elucid.dnnlib.errors import UserError
from elucid.pretrained.dinov2 import MEAN, SIZES, STD, load_network, weights_of
from elucid.pretrained.vision_transformer import PATCH
from elucid.pretrained.weights import identify
from elucid.training.features.base import FeatureEncoder, require_weights

NAME, OPTION = "features dinov2", "`set` loss.features.weights"


class DinoFeatures(FeatureEncoder):
    """Normalised patch tokens of ViT-S, -B or -L/14 (`size` s, b, l), without the class token, as in arXiv 2410.06940.

    Images are resized so that there is one patch of 14x14 pixels for each token of the network. The public weights are
    downloaded when training starts, unless `weights` is a file or an address. Raises UserError if that fails, and if
    `sha256` names other weights.
    """

    def __init__(self, size: str = "b", weights: str | None = None, sha256: str | None = None):
        if size not in SIZES:
            raise UserError(f"{NAME}: size={size!r} must be one of {', '.join(SIZES)}")
        self.size, self.weights = SIZES[size], weights
        self.sha256 = self.size.sha256 if weights is None else files.sha256(files.fetch(weights, "weights"))
        require_weights(NAME, self.sha256, sha256)
        self.dim, self.grid = self.size.width, (16, 16)

    def fit(self, grid: tuple[int, int]) -> None:
        self.grid = grid

    def load(self) -> None:
        if self.network is None:
            path = weights_of(self.size, self.weights, "use `set` loss.features.name=efflite0", OPTION)
            identify(path, self.size.sha256, self.size.what, "its features are only comparable with each other")
            self.network = load_network(path, self.size)

    def to(self, device: torch.device) -> "DinoFeatures":
        if self.device != device:
            self.mean = torch.tensor(MEAN, device=device)[:, None, None]
            self.std = torch.tensor(STD, device=device)[:, None, None]
        super().to(device)
        return self

    def features(self, images: Tensor) -> Tensor:
        x, size = images, (self.grid[0] * PATCH, self.grid[1] * PATCH)
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode="bicubic", antialias=True)
        return self.network.patch_tokens(((x + 1) / 2 - self.mean) / self.std)
