"""Classifier-free guidance."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.batches import repeat_batch
from elucid.training.guidance.base import Guidance
from elucid.training.types import MAPS, Cond, Prediction


class ClassifierFreeGuidance(Guidance):
    """Guides with the same network's unconditional prediction, label all zeros (Ho & Salimans 2022).

    Both predictions are computed in one forward pass of twice the batch. `drop` names the conditions that the weaker
    one lacks, by default "labels", or "cond_images" of a model without labels.

    Raises UserError if the denoiser has none, or not those.
    """

    def __init__(
        self,
        denoiser,
        scale: float = 1.0,
        interval: list[float] | None = None,
        channels: int | None = None,
        drop: list[str] | None = None,
    ):
        super().__init__(denoiser, scale, interval, channels)
        there = [name for name in ("labels", MAPS) if name in denoiser.spec.vector or name in denoiser.spec.spatial]
        if not there:
            raise UserError(
                f"`guidance`={scale:g}: the model was trained without classes; leave `guidance` out, or give a `guide`"
            )
        if unknown := [name for name in drop or () if name not in there]:
            raise UserError(f"guidance.drop={','.join(unknown)}: the model has the conditions {', '.join(there)}")
        self.drop = list(drop or there[:1])

    def pair(self, x: Tensor, sigma: Tensor, cond: Cond) -> tuple[Prediction, Tensor]:
        count = len(x)
        both = {name: repeat_batch(value, count) for name, value in cond.items()}
        for name in self.drop:
            value = cond.get(name, x.new_zeros(count, self.spec.label_dim))
            value = value.expand(count, *value.shape[1:])
            both[name] = torch.cat([value, torch.zeros_like(value)])
        out = self.denoiser(repeat_batch(x), repeat_batch(sigma, count), both)
        parts = (out.x0, out.var, out.logvar, out.guidance)
        main = Prediction(*(None if part is None else part[:count] for part in parts))
        return main, out.x0[count:]
