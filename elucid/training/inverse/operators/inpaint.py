"""The operator of inpainting: some pixels are known."""

from torch import Tensor

from elucid.training.inverse.operators.files import require_mask_fits
from elucid.training.inverse.operators.masked import MaskedOperator


class Inpaint(MaskedOperator):
    """y = m u [B,C,H,W]: known where the mask m, a picture or .npy [H,W] or [C,H,W], is not 0.

    What a measurement has elsewhere, be it NaN, is ignored. Raises UserError for a mask that has another size than the
    images, or is 0 everywhere.
    """

    def __call__(self, images: Tensor) -> Tensor:
        require_mask_fits(self.mask.value, images, self.name)
        return self.mask.like(images) * images

    def adjoint(self, y: Tensor) -> Tensor:
        return self.mask.like(y) * y

    def observed(self, y: Tensor) -> Tensor:
        return y.masked_fill(self.mask.like(y) == 0, 0.0)
