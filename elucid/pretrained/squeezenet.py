"""SqueezeNet 1.1 trained on ImageNet, with the weights of a package.

Iandola et al. 2016 (arXiv 1602.07360). 1.1 differs from the paper's network in its first convolution and in pooling
earlier.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.pickled_arrays import load_arrays
from elucid.pretrained.weights import fill

PACKAGE = "ndf"
WEIGHTS_FILE = "squeezenet_weights.pkl"
WEIGHTS_SHA256 = "f286bbf493e6389979ed3036f960f4404e0079acdb92156500df0d4a43d085f1"
WHAT = "the public SqueezeNet 1.1"
SIZE = 227
DIM, CLASSES = 512, 1000
MEAN = (104.0, 117.0, 123.0)  # of blue, green, red
FIRES = {"fire2": 16, "fire3": 16, "fire4": 32, "fire5": 32, "fire6": 48, "fire7": 48, "fire8": 64, "fire9": 64}
"""Channels of each fire module's first layer; its output has eight times as many."""
POOLED = ("fire4", "fire6")
"""Modules whose input is pooled."""


class Fire(nn.Module):
    """Fire module: few channels, from which 1x1 and 3x3 convolutions each make half of the output."""

    def __init__(self, c_in: int, squeezed: int):
        super().__init__()
        self.squeeze1x1 = nn.Conv2d(c_in, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, 4 * squeezed, 1)
        self.expand3x3 = nn.Conv2d(squeezed, 4 * squeezed, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze1x1(x), inplace=True)
        return F.relu(torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1), inplace=True)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.1: blue-green-red images f32[B,3,227,227] without their mean to feature maps f32[B,512,14,14]."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2)
        self.fires = nn.ModuleDict()
        c_in = 64
        for name, squeezed in FIRES.items():
            self.fires[name] = Fire(c_in, squeezed)
            c_in = 8 * squeezed
        self.conv10 = nn.Conv2d(DIM, CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = pool(F.relu(self.conv1(x), inplace=True))
        for name, fire in self.fires.items():
            x = fire(pool(x) if name in POOLED else x)
        return x

    def scores(self, features: Tensor) -> Tensor:
        """Return the logits f32[B,1000] of feature maps f32[B,512,H,W]."""
        return F.relu(self.conv10(features)).mean((2, 3))


def pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2, ceil_mode=True)  # as Caffe, in which the weights were trained


def load_network(path: Path) -> SqueezeNet:
    """Load the network from the package's pickle of arrays; UserError if it is invalid or has other names or shapes."""
    network = SqueezeNet()
    fill(network, convolutions(load_arrays(path.read_bytes(), str(path)), path), path, WHAT, WEIGHTS_FILE)
    return network.to(memory_format=torch.channels_last)


def convolutions(layers, path: Path) -> dict[str, Tensor]:
    """Convert {"fire2/expand1x1": [kernel [H,W,in,out], bias [out]]} to a state dict."""
    state = {}
    try:
        for layer, (kernel, bias) in layers.items():
            name = str(layer).replace("/", ".")
            name = name if "." not in name else f"fires.{name}"
            state[f"{name}.weight"] = torch.from_numpy(np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)))
            state[f"{name}.bias"] = torch.from_numpy(bias.copy())
    except (AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: contains no layers of kernel and bias; give {WEIGHTS_FILE}") from error
    return state
