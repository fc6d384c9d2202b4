"""The operator of deblurring: convolution with a kernel."""

import math

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import sha256
from elucid.training.inverse.operators.base import Constant, LinearOperator
from elucid.training.inverse.operators.files import read_array

BOUNDARIES = ("circular", "zero")
RADIUS = 4
"""Deviations at which a Gaussian is cut off: what is beyond is 6e-5 of it."""


class Blur(LinearOperator):
    """y_i = sum_d k_d u_(i-d), [B,C,H,W] as u: a convolution with a kernel k whose middle is at d = 0.

    `kernel` is the deviation in pixels of a Gaussian, which is along the width alone if images have the height 1, or a
    .npy or picture of any [h,w], which is not normalised if it is a .npy; [h,w] of even sides have their middle at
    (h // 2, w // 2). `boundary` "circular": u goes on from the other side, "zero": it is 0 outside. Raises UserError
    for another boundary or kernel.
    """

    def __init__(self, kernel: float | str, boundary: str = "circular"):
        if boundary not in BOUNDARIES:
            raise UserError(f"`operator`: boundary={boundary!r} is unknown; choose from {', '.join(BOUNDARIES)}")
        self.zero, self.std, self.kernel, self.digest = boundary == "zero", 0.0, None, None
        self._transfers: dict[tuple[int, ...], Constant] = {}
        if isinstance(kernel, str):
            self.kernel, self.digest = kernel_in(kernel), sha256(kernel)
        elif not 0 < kernel < math.inf:
            raise UserError(f"`operator`: kernel={kernel:g} must be a deviation above 0, in pixels, or a file")
        else:
            self.std = float(kernel)

    @property
    def metadata(self) -> dict[str, str]:
        return {} if self.digest is None else {"sha256": self.digest}

    def __call__(self, images: Tensor) -> Tensor:
        return self._filtered(images, adjoint=False)

    def adjoint(self, y: Tensor) -> Tensor:
        return self._filtered(y, adjoint=True)

    def _filtered(self, images: Tensor, adjoint: bool) -> Tensor:
        # Outside of zero is an inside that is larger, of which the convolution is circular again.
        height, width = images.shape[2:]
        kernel = gaussian(self.std, height, width) if self.kernel is None else self.kernel
        rows, columns = (n - 1 if self.zero else 0 for n in kernel.shape)
        size = (height + rows, width + columns)
        key = (*size, *kernel.shape)
        if key not in self._transfers:
            self._transfers[key] = Constant(transfer(kernel, size))
        factor = self._transfers[key].like(images)
        spectrum = torch.fft.rfft2(images, s=size) * (factor.conj() if adjoint else factor)
        return torch.fft.irfft2(spectrum, s=size)[..., :height, :width]


def gaussian(std: float, height: int, width: int) -> Tensor:
    """Return a normalised Gaussian, float64 [2r+1,2r+1], or [1,2r+1] and the like for a side of 1."""
    sides = []
    for length in (height, width):
        radius = 0 if length == 1 else math.ceil(RADIUS * std)
        values = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / std) ** 2)
        sides.append(values / values.sum())
    return sides[0][:, None] * sides[1]


def kernel_in(path: str) -> Tensor:
    """Return the kernel of a file, float64 [h,w]; one of a picture is normalised. Raises UserError."""
    values = read_array(path, "`operator`: kernel")
    values = values.mean(0) / values.mean(0).sum() if not path.lower().endswith(".npy") else values
    if values.ndim != 2 or not values.isfinite().all() or not values.any():
        raise UserError(f"`operator`: the kernel {path} must be finite numbers [h,w], not all 0")
    return values


def transfer(kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the transform complex128 of a kernel [h,w] with its middle at 0 that is repeated with this period."""
    rows, columns = ((torch.arange(n) - n // 2) % side for n, side in zip(kernel.shape, size, strict=True))
    placed = torch.zeros(size, dtype=torch.float64)
    placed.index_put_((rows[:, None], columns[None]), kernel, accumulate=True)  # more than once if it is larger
    return torch.fft.rfft2(placed)
