"""The detector `dinov2`: the class token of DINOv2's ViT-L/14, with public weights, downloaded or from a file.

Stein et al. 2023 (arXiv 2306.04675) found distances in these features to agree with human judgement better than those
in Inception's.
"""

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from elucid.dnnlib import files
from elucid.metrics.detectors import Detector
from elucid.metrics.pretrained.vision_transformer import VisionTransformer
from elucid.metrics.pretrained.weights import downloaded, fill, identify, read_state

WEIGHTS_FILE = "dinov2_vitl14_pretrain.pth"
WEIGHTS_URL = f"https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/{WEIGHTS_FILE}"
WEIGHTS_SHA256 = "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428"
WHAT = "the public DINOv2 ViT-L/14"
SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green, blue in [0, 1]


class DinoDetector(Detector):
    """Class token f32[B,1024] of DINOv2's ViT-L/14, on images resized to 224x224; a GPU's work."""

    name = "dinov2"
    resize = f"bicubic-antialias-{SIZE}"
    dim = 1024

    def __init__(self, device: torch.device, weights: str | os.PathLike | None = None):
        if weights is None:
            mend = "use `detector`=efflite0"
            path = downloaded(WEIGHTS_URL, WEIGHTS_SHA256, "DINOv2 weights (1.2 GB)", mend)
        else:
            path = files.fetch(weights, "detector weights")
        self.device = device
        self.sha256 = identify(path, WEIGHTS_SHA256, WHAT)
        self.network = load_network(path).to(device)
        self.mean = torch.tensor(MEAN, device=device)[:, None, None]
        self.std = torch.tensor(STD, device=device)[:, None, None]

    def features(self, images: Tensor) -> Tensor:
        return self.network((resized(images) / 255 - self.mean) / self.std)


def resized(images: Tensor) -> Tensor:
    """Resize u8[B,3,H,W] to f32[B,3,224,224] with whole values in [0, 255], as Pillow's bicubic filter does.

    Pillow resizes rows, then columns, and rounds after each.
    """
    x = images.to(torch.float32)
    for size in ((x.shape[-2], SIZE), (SIZE, SIZE)):
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode="bicubic", antialias=True).clamp(0, 255).round()
    return x


def load_network(path: Path) -> VisionTransformer:
    """Load ViT-L/14 from a state dict; UserError if the file is invalid or has other names or shapes."""
    state = read_state(path, WEIGHTS_FILE)
    network = VisionTransformer()
    fill(network, state, path, WHAT, WEIGHTS_FILE)
    return network
