"""Representation alignment (REPA, Yu et al. 2024, arXiv 2410.06940): inner features like those of a frozen encoder."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.encoders.rgb import RGB
from elucid.training.features.base import FeatureEncoder, resampled
from elucid.training.losses.base import Load, Loss, LossWrapper, elements, name_of, require_denoiser, with_total
from elucid.training.losses.patch import PatchLoss
from elucid.training.losses.uncertainty import first_call
from elucid.training.networks.layers import Linear
from elucid.training.preconds.base import Coefficients, Denoiser, Preconditioned
from elucid.training.types import Batch, LossOutput, NetSpec, Step


class AlignmentLoss(LossWrapper):
    """base - weight * d * mean_n cos(h(z_n), y_n), averaged over encoders (arXiv 2410.06940, eq. 8).

    z_n are the tokens of the network's inner `layer` in the first call of the denoiser in `base`, y_n those of a frozen
    encoder of the clean image (`features`, one or several), h a projector of three linear layers, `width` wide, one for
    each encoder, trained along. d is the number of elements of an image, over which `base` sums (1 if it takes the
    mean), so that `weight` has its published meaning. From the share `until` of the training on there is only `base`.
    Logged: the base's terms as they are, and `alignment`, minus the mean cosine. Raises UserError for a network without
    the layer, and for latents without their pixels.
    """

    uses_all_parameters = True
    needs_pixels = may_be_negative = True

    def __init__(
        self,
        base: Loss,
        features: FeatureEncoder | list[FeatureEncoder],
        layer: str = "block8",
        weight: float = 0.5,
        width: int = 2048,
        until: float = 1.0,
    ):
        super().__init__(base)
        for name, value in (("weight", weight), ("width", width)):
            if not value > 0:
                raise UserError(f"loss.{name}={value} must be above 0; published: weight 0.5, width 2048")
        if not 0 < until <= 1:
            raise UserError(f"loss.until={until} is a share of the training; it must be above 0 and at most 1")
        self.encoders = features if isinstance(features, list) else [features]
        if not self.encoders:
            raise UserError("loss.features=[] names no encoder; name one, such as efflite0 or dinov2")
        self.layer, self.weight, self.width, self.until = layer, weight, width, until

    def adapt(self, spec: NetSpec) -> NetSpec:
        spec = super().adapt(spec)
        return spec.replace(features=tuple(dict.fromkeys([*spec.features, self.layer])))

    def check(self, denoiser: Preconditioned) -> None:
        require_denoiser(self, denoiser)
        require_images(self, denoiser)
        super().check(denoiser)

    def setup(self, denoiser: Denoiser, load: Load) -> None:
        """Make a projector for each encoder, from the width of the layer's tokens, and read the encoders' weights."""
        super().setup(denoiser, load)
        tokens, self.grid = as_tokens(probed(denoiser, self.layer), denoiser.spec.resolution)
        self.projectors = nn.ModuleList(projector(tokens.shape[2], self.width, one.dim) for one in self.encoders)
        for one in self.encoders:
            one.fit(self.grid)
            one.load()

    def forward(self, denoiser: Denoiser, batch: Batch, step: Step) -> LossOutput:
        if step.phase != "main":
            return self.base(denoiser, batch, step)
        if step.progress >= self.until:
            out = self.base(denoiser, batch, step)
            unused = 0 * sum(one.sum() for one in self.projectors.parameters())
            return LossOutput(out.loss + unused, out.terms)
        with first_call(denoiser) as heard:
            out = with_total(self.base(denoiser, batch, step), denoiser, batch.images, step)
        found = heard[0].prediction.features if heard else None
        if not found or len(found[self.layer]) != len(batch):
            base = type(self.base).__name__
            raise UserError(f"alignment: {base} does not begin with one prediction for each image; wrap another loss")
        tokens, grid = as_tokens(found[self.layer], batch.images.shape[2:])
        pixels = clean_pixels(batch, denoiser.spec)
        cosines = []
        for one, project in zip(self.encoders, self.projectors, strict=True):
            with torch.no_grad():
                wanted = resampled(one(pixels), one.grid, grid)
            cosines.append(F.cosine_similarity(project(tokens).to(torch.float32), wanted, dim=2).mean(dim=1))
        term = -torch.stack(cosines).mean(dim=0)
        return LossOutput(out.loss + self.weight * elements(self, batch) * term, {**out.terms, "alignment": term})


def projector(n_in: int, width: int, n_out: int) -> nn.Sequential:
    """Make linear, SiLU, linear, SiLU, linear; the weights Xavier-uniform, the biases zero."""
    return nn.Sequential(Linear(n_in, width), nn.SiLU(), Linear(width, width), nn.SiLU(), Linear(width, n_out))


@torch.no_grad()
def probed(denoiser: Denoiser, layer: str) -> Tensor:
    """Return the features of a layer for one image of zeros, on the device of the weights; its shape is of interest."""
    spec, device, training = denoiser.spec, next(denoiser.parameters()).device, denoiser.training
    maps = {name: torch.zeros(1, channels, *spec.resolution, device=device) for name, channels in spec.spatial.items()}
    x, one = torch.zeros(1, *spec.sample_shape, device=device), torch.ones(1, 1, 1, 1, device=device)
    denoiser.eval()
    try:
        out = denoiser.call_network(x, Coefficients(one, one, one, 0 * one), denoiser.condition(x, maps))
    finally:
        denoiser.train(training)
    if not isinstance(out, tuple) or layer not in out[1]:
        name = type(denoiser.model).__name__
        raise UserError(f"network {name} returned no {layer!r} beside its output; see its argument features")
    return out[1][layer]


def as_tokens(features: Tensor, resolution: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """Return features [B,N,D] or [B,D,h,w] of images of (height, width) as tokens [B,N,D], rows first, and their grid.

    Raises UserError if N tokens are no grid of the images' aspect.
    """
    if features.ndim == 4:
        return features.flatten(2).transpose(1, 2), (features.shape[2], features.shape[3])
    count, (height, width) = features.shape[1], resolution
    rows = math.isqrt(count * height // width)
    if rows == 0 or count % rows or rows * width != count // rows * height:
        raise UserError(f"alignment: {count} tokens are no grid of images of {width}x{height}; choose another layer")
    return features, (rows, count // rows)


def clean_pixels(batch: Batch, spec: NetSpec) -> Tensor:
    """Return the clean images f32[B,1 or 3,H,W] in [-1, 1], of latents those that they were encoded from.

    Raises UserError if a transform that may move pixels has dropped them.
    """
    if not spec.latent:
        return batch.images
    if batch.raw is None:
        raise UserError(
            "alignment: a transform of the latents did not pass on the pixels that they are of; leave out "
            "`transform`, or let it pass on Batch.raw if it moves none"
        )
    return RGB().encode(batch.raw)


def require_images(loss: LossWrapper, denoiser: Denoiser) -> None:
    """Raise UserError if `loss` wraps patches, of which it would see none, or if there are no gray or RGB images."""
    name, base, spec = name_of(loss), loss.base, denoiser.spec
    while isinstance(base, LossWrapper):
        if isinstance(base, PatchLoss):
            raise UserError(f"{name} cannot wrap patch, whose crops it does not see; write `loss`=patch({name}(...))")
        base = base.base
    if not base.predicts_images:
        raise UserError(f"{name} compares images with the batch's, and {name_of(base)} predicts none; leave {name} out")
    if not spec.latent and spec.image_channels not in (1, 3):
        raise UserError(f"{name} encodes gray or RGB images, not {spec.image_channels} channels; leave it out")
