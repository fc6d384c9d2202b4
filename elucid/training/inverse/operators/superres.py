"""The operator of superresolution: means of blocks."""

from torch import Tensor
from torch.nn import functional as F

from elucid.dnnlib.errors import UserError
from elucid.training.inverse.operators.base import LinearOperator


class SuperResolution(LinearOperator):
    """y [B,C,H/f,W/f]: the means of blocks of f x f pixels; `factor` f may be a list, of height and width.

    Raises UserError unless the factors are positive integers that divide the sides of the images.
    """

    def __init__(self, factor: int | list[int]):
        self.factors = [factor, factor] if isinstance(factor, int) else list(factor)
        if len(self.factors) != 2 or min(self.factors) < 1:
            raise UserError(f"`operator`: factor={factor} must be an integer of at least 1, or [height, width] of them")

    def __call__(self, images: Tensor) -> Tensor:
        (height, width), (down, across) = images.shape[2:], self.factors
        if height % down or width % across:
            raise UserError(f"`operator`: factor={self.factors} does not divide images of {width}x{height}")
        return F.avg_pool2d(images, (down, across))

    def adjoint(self, y: Tensor) -> Tensor:
        down, across = self.factors
        return y.repeat_interleave(down, 2).repeat_interleave(across, 3) / (down * across)
