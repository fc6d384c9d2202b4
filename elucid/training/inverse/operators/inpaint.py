"""The operator of inpainting: some pixels are known."""

from torch import Tensor

from elucid.dnnlib.files import sha256
from elucid.training.inverse.operators.base import Constant, LinearOperator
from elucid.training.inverse.operators.files import mask_of, read_array, require_mask_fits


class Inpaint(LinearOperator):
    """y = m u [B,C,H,W]: known where the mask m, a picture or .npy [H,W] or [C,H,W], is not 0.

    What a measurement has elsewhere, be it NaN, is ignored. Raises UserError for a mask that has another size than the
    images, or is 0 everywhere.
    """

    def __init__(self, mask: str):
        self.name = f"`operator`: the mask {mask}"
        self.mask = Constant(mask_of(read_array(mask, "`operator`: mask"), self.name))
        self.digest = sha256(mask)

    @property
    def metadata(self) -> dict[str, str]:
        return {"sha256": self.digest}

    def __call__(self, images: Tensor) -> Tensor:
        require_mask_fits(self.mask.value, images, self.name)
        return self.mask.like(images) * images

    def adjoint(self, y: Tensor) -> Tensor:
        return self.mask.like(y) * y

    def observed(self, y: Tensor) -> Tensor:
        return y.masked_fill(self.mask.like(y) == 0, 0.0)
