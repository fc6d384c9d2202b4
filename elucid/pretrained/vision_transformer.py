"""The vision transformer of DINOv2, with its public parameter names.

Dosovitskiy et al. 2021 (arXiv 2010.11929), with scaled residuals (Touvron et al. 2021, arXiv 2103.17239) as in Oquab
et al. 2023 (arXiv 2304.07193).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 14
GRID = 37  # patches along a side of the images of 518x518 that the positions were trained for


class VisionTransformer(nn.Module):
    """Images f32[B,3,H,W], with sides multiples of 14, to the normalised class token f32[B,width]. Default: ViT-L."""

    def __init__(self, width: int = 1024, depth: int = 24, heads: int = 16):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + GRID * GRID, width))
        self.mask_token = nn.Parameter(torch.zeros(1, width))  # only used in training
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, stride=PATCH)})
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self._tokens(images)[:, 0])

    def patch_tokens(self, images: Tensor) -> Tensor:
        """Return the normalised tokens of the patches f32[B,H/14 * W/14,width], rows first."""
        return self.norm(self._tokens(images)[:, 1:])

    def _tokens(self, images: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](images)
        x = patches.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.positions(*patches.shape[-2:])
        for block in self.blocks:
            x = block(x)
        return x

    def positions(self, height: int, width: int) -> Tensor:
        """Return the positions f32[1,1+height*width,D] of a grid of patches, interpolated from those that were trained.

        As in the public code, a tenth of a patch is added to the sides before their ratios are taken.
        """
        if (height, width) == (GRID, GRID):
            return self.pos_embed
        own, grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        grid = grid.transpose(1, 2).unflatten(2, (GRID, GRID))
        ratios = ((height + 0.1) / GRID, (width + 0.1) / GRID)
        grid = F.interpolate(grid, scale_factor=ratios, mode="bicubic")
        return torch.cat([own, grid.flatten(2).transpose(1, 2)], dim=1)


class Block(nn.Module):
    """Pre-norm block on tokens f32[B,N,width]: self-attention, then two linear layers; both residuals are scaled."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.ls1 = nn.ParameterDict({"gamma": nn.Parameter(torch.ones(width))})
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.ls2 = nn.ParameterDict({"gamma": nn.Parameter(torch.ones(width))})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1["gamma"] * self.attention(self.norm1(x))
        return x + self.ls2["gamma"] * self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))

    def attention(self, x: Tensor) -> Tensor:
        qkv = self.attn["qkv"](x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [3,B,heads,N,channels]
        mixed = F.scaled_dot_product_attention(*qkv)
        return self.attn["proj"](mixed.transpose(1, 2).flatten(2))
