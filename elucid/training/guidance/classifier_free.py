"""Classifier-free guidance."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.batches import repeat_batch
from elucid.training.guidance.base import Guidance
from elucid.training.types import Cond, Prediction


class ClassifierFreeGuidance(Guidance):
    """Guides with the same network's unconditional prediction, label all zeros (Ho & Salimans 2022).

    Both predictions are computed in one forward pass of twice the batch.

    Raises UserError if the denoiser has no labels.
    """

    def __init__(self, denoiser, scale: float = 1.0, interval: list[float] | None = None, channels: int | None = None):
        super().__init__(denoiser, scale, interval, channels)
        if not denoiser.spec.label_dim:
            raise UserError(
                f"`guidance`={scale:g}: the model was trained without classes; leave `guidance` out, or give a `guide`"
            )

    def pair(self, x: Tensor, sigma: Tensor, cond: Cond) -> tuple[Prediction, Tensor]:
        count = len(x)
        labels = cond.get("labels", x.new_zeros(count, self.spec.label_dim))
        both = {name: repeat_batch(value, count) for name, value in cond.items()}
        both["labels"] = torch.cat([labels.expand(count, -1), torch.zeros_like(labels).expand(count, -1)])
        out = self.denoiser(repeat_batch(x), repeat_batch(sigma, count), both)
        parts = (out.x0, out.var, out.logvar, out.guidance)
        main = Prediction(*(None if part is None else part[:count] for part in parts))
        return main, out.x0[count:]
