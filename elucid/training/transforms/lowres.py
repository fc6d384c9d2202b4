"""The low-resolution image as a condition, for models that enlarge images (Ho et al. 2021, Dhariwal & Nichol 2021)."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from elucid.dnnlib.errors import UserError
from elucid.training.transforms.base import Transform
from elucid.training.types import Batch, NetSpec

NAME, STRENGTH = "lowres", "lowres_noise"
"""Names in `cond` of the enlarged low-resolution image and of the strength of the noise in it."""


def shrink(images: Tensor, factor: int) -> Tensor:
    """Average squares of `factor` x `factor` pixels: [B,C,H,W] -> [B,C,H/factor,W/factor]."""
    return F.avg_pool2d(images, factor)


def enlarge(images: Tensor, resolution: tuple[int, int]) -> Tensor:
    """Interpolate bilinearly to height and width (align_corners=False): [B,C,h,w] -> [B,C,H,W]."""
    return F.interpolate(images, size=resolution, mode="bilinear", align_corners=False)


class LowRes(Transform):
    """Adds `cond["lowres"]` [B,C,H,W] = enlarge(shrink(y, factor) + s n), n ~ N(0, 1), of the final images y [B,C,H,W].

    s ~ U(0, noise) is drawn for each image; with noise > 0 the network is told it as `cond["lowres_noise"]` [B,1]. This
    makes a model robust to the errors of the one before it (Ho et al. 2021, arXiv 2106.15282, section 4); samples are
    drawn with s = 0. Raises UserError for latents, and for images that `factor` does not divide.
    """

    def __init__(self, factor: int, noise: float = 0.0):
        if factor < 2:
            raise UserError(f"`lowres`={factor} does not make images smaller; give an integer from 2 on")
        if not 0 <= noise <= 1:
            raise UserError(f"`lowres_noise`={noise} must be from 0 to 1, in the units of images in [-1, 1]")
        self.factor, self.noise = factor, noise

    def adapt(self, spec: NetSpec) -> NetSpec:
        if spec.latent:
            raise UserError(f"`lowres`={self.factor} works on images, not on latents; leave out `train_on_latents`")
        height, width = spec.resolution
        if height % self.factor or width % self.factor:
            common = math.gcd(height, width)
            fitting = ", ".join(str(factor) for factor in range(2, common + 1) if common % factor == 0)
            mend = f"use one of {fitting}" if fitting else "use images of another size"
            raise UserError(f"`lowres`={self.factor} does not divide the images' {width}x{height}; {mend}")
        return spec.with_spatial(NAME, spec.image_channels).with_vector(STRENGTH, int(self.noise > 0))

    def __call__(self, batch: Batch) -> Batch:
        small, cond = shrink(batch.images, self.factor), dict(batch.cond)
        if self.noise:
            strength = torch.rand(len(batch), 1, device=small.device) * self.noise
            small = small + strength[:, :, None, None] * torch.randn_like(small)
            cond[STRENGTH] = strength
        cond[NAME] = enlarge(small, batch.images.shape[2:])
        return Batch(batch.images, cond, batch.mirrored)
