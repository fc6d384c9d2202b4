"""The operator of denoising: the image itself."""

from torch import Tensor

from elucid.training.inverse.operators.base import LinearOperator


class Identity(LinearOperator):
    """y = u: images [B,C,H,W] that are known, but for noise."""

    def __call__(self, images: Tensor) -> Tensor:
        return images

    def adjoint(self, y: Tensor) -> Tensor:
        return y
