"""Inception-v3 of the FID: the network of 2015-12-05 with 1008 classes, with its public parameter names.

Szegedy et al. 2016 (arXiv 1512.00567). It differs from the paper and from torchvision: average pooling excludes the
padding, the last block uses max pooling, and there are 1008 classes and no auxiliary head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

SIZE = 299
LAYERS = {"64": 64, "192": 192, "768": 768, "2048": 2048, "logits_unbiased": 1008, "spatial": 7 * 17 * 17}
"""Available outputs and their sizes: pooled features by channels, logits without bias, sFID's 7x17x17 maps."""

SPATIAL_CHANNELS = 7

# A branch of a block is a list of convolutions (channels, kernel). A kernel is a side or (height, width).
Branch = list[tuple[int, int | tuple[int, int]]]


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, ReLU. With stride 1 the size is kept unless `padding` is given."""

    def __init__(self, c_in: int, c_out: int, kernel, stride: int = 1, padding=None):
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        if padding is None:
            padding = (height // 2, width // 2)
        self.conv = nn.Conv2d(c_in, c_out, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(c_out, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)

    def fold(self) -> None:
        """Fold the batch norm into the convolution, which is a third faster on a CPU."""
        self.conv = fuse_conv_bn_eval(self.conv, self.bn)
        self.bn = nn.Identity()


class Mixed(nn.Module):
    """Concatenates parallel branches with convolutions `{branch}_{i}`, or `{branch}` if there is only one.

    `forks` lists the branches that end in two parallel convolutions, 1x3 (`a`) and 3x1 (`b`). With stride 2, the last
    convolution of each branch and the pool downsample without padding.
    """

    def __init__(
        self,
        c_in: int,
        branches: dict[str, Branch],
        pool: str = "avg",
        pool_channels: int = 0,
        forks: tuple[str, ...] = (),
        stride: int = 1,
    ):
        super().__init__()
        self.pool, self.stride = pool, stride
        self.chains: list[list[tuple[str, ...]]] = []
        self.c_out = 0
        for branch, convs in branches.items():
            self.chains.append(self._add_branch(branch, c_in, convs, fork=branch in forks))
        if pool_channels:
            self.branch_pool = ConvNorm(c_in, pool_channels, 1)
        self.c_out += pool_channels or c_in

    def _add_branch(self, branch: str, c_in: int, convs: Branch, fork: bool) -> list[tuple[str, ...]]:
        chain = []
        for index, (c_out, kernel) in enumerate(convs, start=1):
            last = index == len(convs)
            name = branch if len(convs) == 1 else f"{branch}_{index}"
            if last and fork:
                self.add_module(f"{name}a", ConvNorm(c_in, c_out, (1, 3)))
                self.add_module(f"{name}b", ConvNorm(c_in, c_out, (3, 1)))
                chain.append((f"{name}a", f"{name}b"))
                c_out = 2 * c_out
            elif last and self.stride == 2:
                self.add_module(name, ConvNorm(c_in, c_out, kernel, stride=2, padding=0))
                chain.append((name,))
            else:
                self.add_module(name, ConvNorm(c_in, c_out, kernel))
                chain.append((name,))
            c_in = c_out
        self.c_out += c_in
        return chain

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for chain in self.chains:
            y = x
            for names in chain:
                parts = [self.get_submodule(name)(y) for name in names]
                y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
            outputs.append(y)
        return torch.cat([*outputs, self._pooled(x)], dim=1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.stride == 2:
            return F.max_pool2d(x, 3, stride=2)
        if self.pool == "max":
            x = F.max_pool2d(x, 3, stride=1, padding=1)
        else:
            x = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        return self.branch_pool(x)


def block_35x35(c_in: int, pool_channels: int) -> Mixed:
    branches = {"branch1x1": [(64, 1)], "branch5x5": [(48, 1), (64, 5)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3)]}
    return Mixed(c_in, branches, pool_channels=pool_channels)


def block_17x17(c_in: int, width: int) -> Mixed:
    row, column = (1, 7), (7, 1)
    branches = {
        "branch1x1": [(192, 1)],
        "branch7x7": [(width, 1), (width, row), (192, column)],
        "branch7x7dbl": [(width, 1), (width, column), (width, row), (width, column), (192, row)],
    }
    return Mixed(c_in, branches, pool_channels=192)


def block_8x8(c_in: int, pool: str) -> Mixed:
    branches = {
        "branch1x1": [(320, 1)],
        "branch3x3": [(384, 1), (384, 3)],
        "branch3x3dbl": [(448, 1), (384, 3), (384, 3)],
    }
    return Mixed(c_in, branches, pool, pool_channels=192, forks=("branch3x3", "branch3x3dbl"))


def reduction_to_17x17(c_in: int) -> Mixed:
    return Mixed(c_in, {"branch3x3": [(384, 3)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3)]}, stride=2)


def reduction_to_8x8(c_in: int) -> Mixed:
    branches = {"branch3x3": [(192, 1), (320, 3)], "branch7x7x3": [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)]}
    return Mixed(c_in, branches, stride=2)


class InceptionV3(nn.Module):
    """The complete network; `forward(images, layers)` stops after the last requested layer."""

    def __init__(self):
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, 3, stride=2, padding=0)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, 3, padding=0)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, 3, padding=0)
        self.Mixed_5b = block_35x35(192, pool_channels=32)
        self.Mixed_5c = block_35x35(256, pool_channels=64)
        self.Mixed_5d = block_35x35(288, pool_channels=64)
        self.Mixed_6a = reduction_to_17x17(288)
        self.Mixed_6b = block_17x17(768, width=128)
        self.Mixed_6c = block_17x17(768, width=160)
        self.Mixed_6d = block_17x17(768, width=160)
        self.Mixed_6e = block_17x17(768, width=192)
        self.Mixed_7a = reduction_to_8x8(768)
        self.Mixed_7b = block_8x8(1280, pool="avg")
        self.Mixed_7c = block_8x8(2048, pool="max")
        self.fc = nn.Linear(2048, 1008)

    def forward(self, images: Tensor, layers: tuple[str, ...] = ("2048",)) -> dict[str, Tensor]:
        """Return features by the names in LAYERS: [B,channels] pooled over positions, `spatial` [B,7,17,17].

        Images: u8 or float [B,3,H,W] in [0, 255], of any size.
        """
        features: dict[str, Tensor] = {}
        for name, value in self._walk(images, "spatial" in layers):
            if name in layers:
                features[name] = value
            if len(features) == len(set(layers)):
                break
        return features

    def for_inference(self) -> "InceptionV3":
        """Switch to eval mode and fold batch norms, except where an output is taken before one."""
        self.eval().requires_grad_(False)
        for module in self.modules():
            if isinstance(module, ConvNorm) and module is not self.Mixed_6d.branch1x1:
                module.fold()
        return self.to(memory_format=torch.channels_last)

    def _walk(self, images: Tensor, with_spatial: bool):
        """Yield (name, features) in order of depth, computed lazily."""
        x = (resize_bilinear_tf1(images, SIZE) - 128) / 128
        x = x.contiguous(memory_format=torch.channels_last)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        yield "64", x.mean((2, 3))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        yield "192", x.mean((2, 3))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        if with_spatial:
            yield "spatial", self.Mixed_6d.branch1x1.conv(x)[:, :SPATIAL_CHANNELS]
        x = self.Mixed_6e(self.Mixed_6d(x))
        yield "768", x.mean((2, 3))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        x = x.mean((2, 3))
        yield "2048", x
        yield "logits_unbiased", x @ self.fc.weight.T


def resize_bilinear_tf1(images: Tensor, size: int) -> Tensor:
    """Resize [B,C,H,W] to size x size as TensorFlow 1 did: bilinear at destination * (in / out), no antialias."""
    x = images.to(torch.float32)
    for axis in (-2, -1):
        if x.shape[axis] != size:
            x = _resize_axis(x, axis, size)
    return x


def _resize_axis(x: Tensor, axis: int, size: int) -> Tensor:
    length = x.shape[axis]
    source = torch.arange(size, device=x.device, dtype=torch.float32) * (length / size)
    low = source.long().clamp(max=length - 1)
    high = (low + 1).clamp(max=length - 1)
    weight = source - low
    if axis == -2:
        weight = weight[:, None]
    return x.index_select(axis, low).lerp(x.index_select(axis, high), weight)
