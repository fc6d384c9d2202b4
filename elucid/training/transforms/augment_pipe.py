"""Non-leaky augmentation: the network is conditioned on the augmentation parameters (Karras et al. 2022, appendix F.2).

The operations are those of Karras et al. 2020 ("Training generative adversarial networks with limited data"). Images
that are not augmented have label zero, which is also the label for sampling.
"""

from functools import reduce

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.transfer import to_device
from elucid.training.transforms import operations as ops
from elucid.training.transforms.base import Transform
from elucid.training.transforms.resampling import Resampling
from elucid.training.types import Batch, NetSpec

SPATIAL = ("coords", "cond_images")
"""Names in `cond` of maps [B,c,H,W] that are transformed together with the image."""

Parameters = dict[str, Tensor]
"""Augmentation parameters by operation, on the host: [B] or [2,B], zero for images that it does not change."""


class AugmentPipe(Transform):
    """Random geometric and colour augmentation; each operation has probability p times its strength, 0 = off.

    Each operation adds one number to the label; rotate_*, translate_*, aniso and hue add two. A `std` is in octaves
    (scale, aniso, contrast, saturation), fractions of the side (translate_frac) or image values (brightness); a `max`
    is a fraction of the side (translate_int) or in units of pi. Raises UserError for negative numbers.
    """

    def __init__(
        self,
        p: float = 1.0,
        *,
        xflip: float = 0,
        yflip: float = 0,
        rotate_int: float = 0,
        translate_int: float = 0,
        scale: float = 0,
        rotate_frac: float = 0,
        aniso: float = 0,
        translate_frac: float = 0,
        brightness: float = 0,
        contrast: float = 0,
        lumaflip: float = 0,
        hue: float = 0,
        saturation: float = 0,
        translate_int_max: float = 0.125,
        scale_std: float = 0.2,
        rotate_frac_max: float = 1.0,
        aniso_std: float = 0.2,
        aniso_rotate_prob: float = 0.5,
        translate_frac_std: float = 0.125,
        brightness_std: float = 0.2,
        contrast_std: float = 0.5,
        hue_max: float = 1.0,
        saturation_std: float = 1.0,
    ):
        for name, number in locals().items():
            if name != "self" and not (isinstance(number, (int, float)) and number >= 0):
                raise UserError(f"augmentation: {name}={number!r} must be a number >= 0; 0 turns an operation off")
        self.p = p
        # This is the order of labels and random draws, and the order in which operations are applied.
        pipe = {
            "xflip": (xflip, ops.Flip(dim=3)),
            "yflip": (yflip, ops.Flip(dim=2)),
            "rotate_int": (rotate_int, ops.RotateInt()),
            "translate_int": (translate_int, ops.TranslateInt(translate_int_max)),
            "scale": (scale, ops.Scale(scale_std)),
            "rotate_frac": (rotate_frac, ops.RotateFrac(rotate_frac_max)),
            "aniso": (aniso, ops.Aniso(aniso_std, aniso_rotate_prob)),
            "translate_frac": (translate_frac, ops.TranslateFrac(translate_frac_std)),
            "brightness": (brightness, ops.Brightness(brightness_std)),
            "contrast": (contrast, ops.Contrast(contrast_std)),
            "lumaflip": (lumaflip, ops.LumaFlip()),
            "hue": (hue, ops.Hue(hue_max)),
            "saturation": (saturation, ops.Saturation(saturation_std)),
        }
        self.strengths = {name: strength for name, (strength, _) in pipe.items() if strength > 0}
        self.operations = {name: pipe[name][1] for name in self.strengths}

    @property
    def label_dim(self) -> int:
        """Width of the label."""
        return sum(operation.label_dim for operation in self.operations.values())

    def adapt(self, spec: NetSpec) -> NetSpec:
        """Add the label to the conditions. Raises UserError for lines, and colours on other than 1 or 3 channels."""
        colours = [name for name, operation in self.operations.items() if hasattr(operation, "matrix")]
        if colours and spec.image_channels not in (1, 3):
            raise UserError(
                f"augmentation: {colours[0]} needs gray or RGB images, not {spec.image_channels} channels; set it to 0"
            )
        if self.operations and 1 in spec.resolution:
            height, width = spec.resolution
            raise UserError(f"augmentation rotates and scales images, and {width}x{height} are lines; use `augment`=0")
        return spec.with_vector("augment", self.label_dim)

    def __call__(self, batch: Batch) -> Batch:
        """Augment images and spatial conditions; the label [B,D] becomes cond["augment"]."""
        if not self.operations:
            return batch
        images, cond = batch.images, dict(batch.cond)
        unknown = [name for name, value in cond.items() if value.ndim == 4 and name not in SPATIAL]
        if unknown:
            raise UserError(f"augmentation does not know the map {unknown[0]!r}; use `augment`=0 or add it to SPATIAL")
        maps = [name for name in SPATIAL if name in cond]
        plan = Plan(self, self.draw(len(images), images.shape[2:]), images)
        parts = [images, *(cond[name] for name in maps)]
        moved = plan.move(torch.cat(parts, dim=1) if maps else images)
        images, *moved_maps = moved.split([part.shape[1] for part in parts], dim=1)
        cond.update(zip(maps, moved_maps, strict=True), augment=plan.labels)
        return Batch(plan.recolour(images), cond, batch.mirrored)

    def draw(self, batch_size: int, resolution: tuple[int, int]) -> Parameters:
        """Draw parameters for a batch of resolution (height, width), with the host's global generator."""
        draws = ops.Draws(batch_size, resolution)
        return {name: op.draw(draws, self.p * self.strengths[name]) for name, op in self.operations.items()}

    def labels(self, parameters: Parameters) -> Tensor:
        """Return the labels [B,D] of the parameters."""
        return torch.cat([op.label(parameters[name]) for name, op in self.operations.items()], dim=1)

    def parameters_from_labels(self, labels: Tensor) -> Parameters:
        """Return the parameters with these labels [B,D]; for `aniso` one of two possibilities, see `Aniso`."""
        if labels.ndim != 2 or labels.shape[1] != self.label_dim:
            raise UserError(f"augmentation labels {list(labels.shape)}: this pipe needs [batch, {self.label_dim}]")
        blocks = labels.split([op.label_dim for op in self.operations.values()], dim=1)
        return {name: op.read(block) for (name, op), block in zip(self.operations.items(), blocks, strict=True)}

    def apply(self, images: Tensor, parameters: Parameters) -> Tensor:
        """Apply geometric and colour operations to images f32[B,C,H,W]."""
        plan = Plan(self, parameters, images)
        return plan.recolour(plan.move(images))

    def move(self, maps: Tensor, parameters: Parameters) -> Tensor:
        """Apply the geometric operations to images or spatial conditions [B,c,H,W]."""
        return Plan(self, parameters, maps).move(maps)


class Plan:
    """What the parameters of a batch mean, computed on the host and copied to the images' device all at once.

    So a GPU is neither asked which images move, nor launches a kernel for each number of a matrix.
    """

    def __init__(self, pipe: AugmentPipe, parameters: Parameters, images: Tensor):
        parameters = {name: value.cpu() for name, value in parameters.items()}
        height, width = images.shape[2:]
        named = [(op, parameters[name]) for name, op in pipe.operations.items()]
        self.exact = [(op, value) for op, value in named if hasattr(op, "move")]
        sources = [op.source(value, height, width) for op, value in named if hasattr(op, "source")]
        colours = [op.matrix(value) for op, value in named if hasattr(op, "matrix")]
        self.resampling = Resampling(reduce(torch.matmul, sources), height, width) if sources else None
        tensors = [pipe.labels(parameters), *(value for _, value in self.exact)]
        if self.resampling is not None:
            tensors += [self.resampling.source, self.resampling.moved.to(torch.float32)]
        if colours:
            tensors.append(reduce(torch.matmul, reversed(colours)))
        self.labels, *rest = to_device(tensors, images.device)
        self.exact = [(op, rest.pop(0)) for op, _ in self.exact]
        if self.resampling is not None:
            self.source, self.moved = rest.pop(0), rest.pop(0).long()
        self.colours = rest.pop(0) if colours else None

    def move(self, maps: Tensor) -> Tensor:
        """Apply the geometric operations to images or spatial conditions [B,c,H,W]."""
        for operation, value in self.exact:
            maps = operation.move(maps, value)
        return maps if self.resampling is None else self.resampling(maps, self.source, self.moved)

    def recolour(self, images: Tensor) -> Tensor:
        """Apply the colour operations to RGB images f32[B,3,H,W] or gray ones [B,1,H,W]."""
        return images if self.colours is None else ops.recolour(images, self.colours)


def edm_augment(p: float = 0.12) -> AugmentPipe:
    """Create EDM's augmentation: horizontal flips, and geometric operations with probability p; label width 9."""
    return AugmentPipe(p, xflip=1e8, yflip=1, scale=1, rotate_frac=1, aniso=1, translate_frac=1)
