"""Operations on batches of tensors."""

import torch
from torch import Tensor


def repeat_batch(values: Tensor, size: int | None = None) -> Tensor:
    """Return the batch twice, one after the other: [B, ...] -> [2B, ...]. [1, ...] is expanded to `size` first."""
    if size is not None:
        values = values.expand(size, *values.shape[1:])
    return torch.cat([values, values])
