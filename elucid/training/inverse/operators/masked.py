"""What operators with a mask have in common."""

from elucid.dnnlib.files import sha256
from elucid.training.inverse.operators.base import Constant, LinearOperator
from elucid.training.inverse.operators.files import mask_of, read_array


class MaskedOperator(LinearOperator):
    """Base class: `mask`, a picture or .npy [H,W] or [C,H,W], is 1 where it is not 0; `name` is that of messages.

    Raises UserError for a mask that is 0 everywhere.
    """

    def __init__(self, mask: str):
        self.name = f"`operator`: the mask {mask}"
        self.mask = Constant(mask_of(read_array(mask, "`operator`: mask"), self.name))
        self.digest = sha256(mask)

    @property
    def metadata(self) -> dict[str, str]:
        return {"sha256": self.digest}
