"""A network that gives the tokens of its inner layers, and an encoder of features without trained weights."""

import torch
from torch import nn

from elucid.training.features.base import FeatureEncoder
from elucid.training.networks.conditioning import Conditioned
from elucid.training.networks.layers import Linear


class TokenNet(Conditioned):
    """Patches, `depth` residual blocks of two linear layers, patches back. Features are "block1", "block2", ..."""

    def __init__(
        self, img_resolution, in_channels, out_channels, vector=None, features=(), width: int = 16, depth: int = 2,
        patch: int = 2, as_maps: bool = False,
    ):  # fmt: skip
        super().__init__(vector)
        self.features, self.patch, self.as_maps = list(features), patch, as_maps
        self.first = nn.Conv2d(in_channels, width, patch, stride=patch)
        self.level = Linear(1, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(Linear(width, 2 * width), nn.GELU(), Linear(2 * width, width)) for _ in range(depth)
        )
        self.last = Linear(width, out_channels * patch**2)
        for name in self.vector:
            self.add_map(name, width)

    def forward(self, x, c_noise, cond):
        maps = self.first(x.float())
        emb = self.level(c_noise[:, None].float())
        for name in self.vector:
            emb = self.add_mapped(emb, name, cond)
        tokens, found = maps.flatten(2).transpose(1, 2) + emb[:, None], {}
        for number, block in enumerate(self.blocks, start=1):
            tokens = tokens + block(tokens + tokens.mean(dim=1, keepdim=True))
            found[f"block{number}"] = tokens.transpose(1, 2).unflatten(2, maps.shape[2:]) if self.as_maps else tokens
        pixels = self.last(tokens).transpose(1, 2).unflatten(2, maps.shape[2:])
        out = nn.functional.pixel_shuffle(pixels, self.patch)
        return (out, {name: found[name] for name in self.features}) if self.features else out


class Squares(FeatureEncoder):
    """Tokens of squares of pixels by a fixed random matrix, whose numbers come from a seed; no file has them."""

    def __init__(self, dim: int = 12, side: int = 4, seed: int = 0):
        self.dim, self.grid, self.seed = dim, (side, side), seed

    def load(self):
        if self.network is None:
            conv = nn.Conv2d(3, self.dim, 2, stride=2)
            conv.load_state_dict({name: self.drawn(value.shape) for name, value in conv.state_dict().items()})
            self.network = conv

    def drawn(self, shape):
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.seed))

    def features(self, images):
        small = nn.functional.interpolate(images, (2 * self.grid[0], 2 * self.grid[1]), mode="bilinear", antialias=True)
        return self.network(small).flatten(2).transpose(1, 2).tanh()
