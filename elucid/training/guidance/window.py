"""Windows of the coordinate field of a model trained on patches: parts of its pictures, or larger ones."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.preconds.wrapper import DenoiserWrapper
from elucid.training.types import Cond, NetSpec, Prediction


class CoordinateWindow(DenoiserWrapper):
    """A denoiser of pictures [height, width] that it is told lie at (x_start, y_start) of those it was trained on.

    Pixel i of a side of n has the coordinate 2 i / (n - 1) - 1, n being the trained side, also where i is negative or
    beyond n (Wang et al. 2023, arXiv 2304.12526). Called like the denoiser it wraps, whose `spec` it has but for the
    size. Raises UserError if the denoiser is not told coordinates, or its network cannot halve the size.
    """

    def __init__(self, denoiser, x_start: int, y_start: int, size: tuple[int, int]):
        super().__init__(denoiser)
        if "coords" not in denoiser.spec.spatial:
            raise UserError(
                "`x_start`, `y_start`, `image_size`: the model was trained without coordinates; leave them out, "
                "or sample from one trained with `patch`"
            )
        divisor = 2 ** getattr(denoiser.model, "halvings", 0)
        if any(side < 1 or side % divisor for side in size):
            raise UserError(
                f"`image_size`={size[0]} must be a multiple of {divisor}, as often as the network halves it"
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
    """Coordinates f32[count] of the pixels from `start` on, in a picture with this many pixels a side."""
    return torch.arange(start, start + count, dtype=torch.float64).mul(2 / max(side - 1, 1)).sub(1).to(torch.float32)


def windowed(denoiser, x_start: int | None, y_start: int | None, image_size: int | None):
    """The denoiser, on a window if one is asked for; the window of the whole picture is the denoiser itself."""
    if x_start is None and y_start is None and image_size is None:
        return denoiser
    size = denoiser.spec.resolution if image_size is None else (image_size, image_size)
    window = CoordinateWindow(denoiser, x_start or 0, y_start or 0, size)
    return denoiser if not x_start and not y_start and size == denoiser.spec.resolution else window
