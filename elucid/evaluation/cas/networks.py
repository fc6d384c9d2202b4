"""Classifiers of images: ResNet-18 and ResNet-50 (He et al. 2016), and a small one for a CPU."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGE = 64
"""Images of this many pixels and more are reduced fourfold by the stem of a ResNet, as on ImageNet."""


class ConvNorm(nn.Sequential):
    """A convolution without bias and its batch normalisation."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1):
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs))


class Basic(nn.Module):
    """Residual block of two 3x3 convolutions."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(ConvNorm(inputs, width, 3, stride), nn.ReLU(), ConvNorm(width, width))
        self.shortcut = shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.body(x))


class Bottleneck(nn.Module):
    """Residual block of 1x1, 3x3 and 1x1 convolutions; the 3x3 one has the stride."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = width * self.expansion
        self.body = nn.Sequential(
            ConvNorm(inputs, width, 1),
            nn.ReLU(),
            ConvNorm(width, width, 3, stride),
            nn.ReLU(),
            ConvNorm(width, outputs, 1),
        )
        self.shortcut = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.body(x))


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Return the identity, or a 1x1 convolution where the shape changes."""
    return nn.Identity() if inputs == outputs and stride == 1 else ConvNorm(inputs, outputs, 1, stride)


class Classifier(nn.Sequential):
    """Layers, the mean over positions, and a linear layer: images f32[B,C,H,W] -> logits [B,classes]."""

    def __init__(self, layers: nn.Module, width: int, classes: int):
        # The mean is that of the tensor, whose gradient is the same each time on a GPU, too.
        super().__init__(layers, Mean(), nn.Linear(width, classes))


class Mean(nn.Module):
    """The mean over positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


Block = type[Basic] | type[Bottleneck]


def resnet(block: Block, blocks: tuple[int, ...], channels: int, classes: int, size: int) -> Classifier:
    """Return a residual network of four stages, 64 to 512 wide (He et al. 2016, table 1).

    Below 64 pixels the stem is one 3x3 convolution without pooling, as for CIFAR, so that small images keep detail.
    """
    if size < LARGE:
        layers: list[nn.Module] = [ConvNorm(channels, 64), nn.ReLU()]
    else:
        layers = [ConvNorm(channels, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)]
    inputs = 64
    for stage, count in enumerate(blocks):
        for index in range(count):
            width = 64 << stage
            layers.append(block(inputs, width, 2 if stage and not index else 1))
            inputs = width * block.expansion
    return Classifier(nn.Sequential(*layers), inputs, classes)


def small(channels: int, classes: int) -> Classifier:
    """Return four convolutions, 16 to 64 wide, cheap enough for a CPU."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((channels, 16, 1), (16, 32, 2), (32, 64, 2), (64, 64, 1)):
        layers += [ConvNorm(inputs, outputs, 3, stride), nn.ReLU()]
    return Classifier(nn.Sequential(*layers), 64, classes)


def make_classifier(net: str, channels: int, classes: int, size: int, seed: int) -> Classifier:
    """Return a network of `names.NETS` for images whose shorter side is `size`; the seed determines its weights."""
    makers: dict[str, Callable[[], Classifier]] = {
        "resnet50": lambda: resnet(Bottleneck, (3, 4, 6, 3), channels, classes, size),
        "resnet18": lambda: resnet(Basic, (2, 2, 2, 2), channels, classes, size),
        "small": lambda: small(channels, classes),
    }
    network = makers[net]()
    # A generator of its own, as other threads may make networks at the same time.
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01, generator=generator)
            nn.init.zeros_(module.bias)
    return network
