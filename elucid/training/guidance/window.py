"""Coordinate windows: sample a part of an image, or a larger one, from a model trained on patches."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.preconds.wrapper import DenoiserWrapper
from elucid.training.types import Cond, NetSpec, Prediction


class CoordinateWindow(DenoiserWrapper):
    """Denoises images of `size` (height, width) at position (x_start, y_start) in the training images' coordinates.

    Pixel i has the coordinate 2 i / (n - 1) - 1, where n is the side of the training images; i may be negative or
    beyond n (Wang et al. 2023, arXiv 2304.12526). `spec` differs from the wrapped denoiser's in `resolution` only.
    Raises UserError if the denoiser does not take coordinates or its network cannot process the size.
    """

    def __init__(self, denoiser, x_start: int, y_start: int, size: tuple[int, int]):
        super().__init__(denoiser)
        if "coords" not in denoiser.spec.spatial:
            raise UserError(
                "`x_start`, `y_start`, `image_size`: the model was trained without coordinates; leave them out, "
                "or sample from one trained with `patch`"
            )
        if getattr(denoiser.model, "fixed_size", False) and tuple(size) != denoiser.spec.resolution:
            height, width = denoiser.spec.resolution
            raise UserError(
                f"`image_size`={size[0]}: a {type(denoiser.model).__name__} makes images of {height}x{width} only"
            )
        divisor = 2 ** getattr(denoiser.model, "halvings", 0)
        if any(side < 1 or side % divisor for side in size):
            raise UserError(
                f"`image_size`={size[0]} must be a multiple of {divisor}, the network's downsampling factor"
            )
        self.start, self.size = (x_start, y_start), tuple(size)
        height, width = denoiser.spec.resolution
        x, y = positions(x_start, size[1], width), positions(y_start, size[0], height)
        self.register_buffer("coords", torch.stack([x.expand(*size), y[:, None].expand(*size)]), persistent=False)

    @property
    def spec(self) -> NetSpec:
        return self.denoiser.spec.replace(resolution=self.size)

    def forward(self, x: Tensor, sigma: Tensor | float, cond: Cond | None = None) -> Prediction:
        coords = self.coords.to(x.device).expand(len(x), -1, -1, -1)
        return self.denoiser(x, sigma, {"coords": coords, **(cond or {})})


def positions(start: int, count: int, side: int) -> Tensor:
    """Return coordinates f32[count] of the pixels from `start` on, relative to an image with `side` pixels."""
    return torch.arange(start, start + count, dtype=torch.float64).mul(2 / max(side - 1, 1)).sub(1).to(torch.float32)


def windowed(denoiser, x_start: int | None, y_start: int | None, image_size: int | None):
    """Wrap the denoiser in a CoordinateWindow, unless the window is the whole image."""
    if x_start is None and y_start is None and image_size is None:
        return denoiser
    size = denoiser.spec.resolution if image_size is None else (image_size, image_size)
    window = CoordinateWindow(denoiser, x_start or 0, y_start or 0, size)
    return denoiser if not x_start and not y_start and size == denoiser.spec.resolution else window
