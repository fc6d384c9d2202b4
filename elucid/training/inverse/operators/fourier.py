"""The operator of magnetic resonance and interferometers: some Fourier coefficients are known."""

import torch
from torch import Tensor

from elucid.training.inverse.operators.files import require_mask_fits
from elucid.training.inverse.operators.masked import MaskedOperator


class FourierMask(MaskedOperator):
    """y [B,C,2,H,W]: real and imaginary parts of m F u, F the unitary transform with the zero frequency in the middle.

    The zero frequency is at (H // 2, W // 2). `mask` m is a picture or .npy [H,W] or [C,H,W] of the same order, known
    where it is not 0. Raises UserError as for inpainting.
    """

    def __call__(self, images: Tensor) -> Tensor:
        require_mask_fits(self.mask.value, images, self.name)
        spectrum = torch.fft.fftshift(torch.fft.fft2(images, norm="ortho"), dim=(2, 3))
        return self.mask.like(images)[:, None] * torch.stack([spectrum.real, spectrum.imag], dim=2)

    def adjoint(self, y: Tensor) -> Tensor:
        real, imaginary = (self.mask.like(y)[:, None] * y).unbind(2)
        return torch.fft.ifft2(torch.fft.ifftshift(torch.complex(real, imaginary), dim=(2, 3)), norm="ortho").real

    def observed(self, y: Tensor) -> Tensor:
        return y.masked_fill(self.mask.like(y)[:, None] == 0, 0.0)
