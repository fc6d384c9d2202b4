"""Detectors with weights trained on natural images, from installed packages or a download."""

import os

import torch
import torch.nn.functional as F
from torch import Tensor

from elucid.metrics.detectors import Detector, as_rgb, full_precision
from elucid.pretrained import dinov2, efficientnet_lite, squeezenet
from elucid.pretrained.weights import given_or_packaged, identify


class EfficientNetLiteDetector(Detector):
    """Pooled features f32[B,1280] of EfficientNet-Lite0 on images resized to 224x224."""

    name = "efflite0"
    size = 224
    resize = "bilinear-antialias-224"
    dim = efficientnet_lite.DIM
    extra = {"logits": efficientnet_lite.CLASSES}

    def __init__(self, device: torch.device, weights: str | os.PathLike | None = None):
        path, self.sha256 = packaged(weights, efficientnet_lite, self.name)
        self.device = device
        self.network = efficientnet_lite.load_network(path).to(device)

    def features(self, images: Tensor) -> Tensor:
        return self.network(self._prepared(images))

    @torch.inference_mode()
    def outputs(self, images: Tensor, names: tuple[str, ...] = ("features", "logits")) -> dict[str, Tensor]:
        """Return features and logits f32[B,1000] of ImageNet's classes, those named, of images u8[B,1 or 3,H,W].

        Both come from one pass.
        """
        with full_precision():
            features = self.features(as_rgb(self.placed(images)))
            values = {"features": features, "logits": self.network.fc(features)}
        return {name: values[name] for name in names}

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits f32[B,1000] of ImageNet's classes for images u8[B,1 or 3,H,W]."""
        return self.outputs(images, ("logits",))["logits"]

    def _prepared(self, images: Tensor) -> Tensor:
        x = images.to(torch.float32)
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return ((x - 127) / 128).contiguous(memory_format=torch.channels_last)


class SmallEfficientNetLiteDetector(EfficientNetLiteDetector):
    """The same features f32[B,1280] on images resized to 96x96, several times as fast; for images of up to 64x64."""

    name = "efflite0_96"
    size = 96
    resize = "bilinear-antialias-96"


class SqueezeNetDetector(Detector):
    """Pooled features f32[B,512] of SqueezeNet's last fire module, on images resized to 227x227."""

    name = "squeezenet"
    resize = f"bilinear-antialias-{squeezenet.SIZE}"
    dim = squeezenet.DIM
    extra = {"logits": squeezenet.CLASSES}

    def __init__(self, device: torch.device, weights: str | os.PathLike | None = None):
        path, self.sha256 = packaged(weights, squeezenet, self.name)
        self.device = device
        self.network = squeezenet.load_network(path).to(device)
        self.mean = torch.tensor(squeezenet.MEAN, device=device)[:, None, None]

    def features(self, images: Tensor) -> Tensor:
        return self._map(images).mean((2, 3))

    @torch.inference_mode()
    def outputs(self, images: Tensor, names: tuple[str, ...] = ("features", "logits")) -> dict[str, Tensor]:
        """Return features and logits f32[B,1000] of ImageNet's classes, those named, of images u8[B,1 or 3,H,W].

        Both come from one pass.
        """
        with full_precision():
            maps = self._map(as_rgb(self.placed(images)))
            values = {"features": maps.mean((2, 3))}
            if "logits" in names:
                values["logits"] = self.network.scores(maps)
        return {name: values[name] for name in names}

    def logits(self, images: Tensor) -> Tensor:
        """Return the logits f32[B,1000] of ImageNet's classes for images u8[B,1 or 3,H,W]."""
        return self.outputs(images, ("logits",))["logits"]

    def _map(self, images: Tensor) -> Tensor:
        x, size = images.to(torch.float32), squeezenet.SIZE
        if x.shape[-2:] != (size, size):
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        return self.network((x.flip(1) - self.mean).contiguous(memory_format=torch.channels_last))


DINO_SIZE = 224


class DinoDetector(Detector):
    """Class token f32[B,1024] of DINOv2's ViT-L/14, on images resized to 224x224; a GPU's work.

    Stein et al. 2023 (arXiv 2306.04675) found distances in these features to agree with human judgement better than
    those in Inception's.
    """

    name = "dinov2"
    resize = f"bicubic-antialias-{DINO_SIZE}"
    dim = dinov2.SIZES["l"].width

    def __init__(self, device: torch.device, weights: str | os.PathLike | None = None):
        size = dinov2.SIZES["l"]
        path = dinov2.weights_of(size, weights, "use `detector`=efflite0")
        self.device = device
        self.sha256 = identify(path, size.sha256, size.what)
        self.network = dinov2.load_network(path).to(device)
        self.mean = torch.tensor(dinov2.MEAN, device=device)[:, None, None]
        self.std = torch.tensor(dinov2.STD, device=device)[:, None, None]

    def features(self, images: Tensor) -> Tensor:
        return self.network((as_pillow(images) / 255 - self.mean) / self.std)


def packaged(weights: str | os.PathLike | None, network, detector: str):
    """Return the path and SHA-256 of a network's weights, which are in a package unless a file is given."""
    path = given_or_packaged(weights, network.PACKAGE, network.WEIGHTS_FILE, f"`detector`={detector}")
    return path, identify(path, network.WEIGHTS_SHA256, network.WHAT)


def as_pillow(images: Tensor) -> Tensor:
    """Resize u8[B,3,H,W] to f32[B,3,224,224] with whole values in [0, 255], as Pillow's bicubic filter does.

    Pillow resizes rows, then columns, and rounds after each.
    """
    x = images.to(torch.float32)
    for size in ((x.shape[-2], DINO_SIZE), (DINO_SIZE, DINO_SIZE)):
        if x.shape[-2:] != size:
            x = F.interpolate(x, size, mode="bicubic", antialias=True).clamp(0, 255).round()
    return x
