"""Operations on batches of tensors."""

import torch
from torch import Tensor


def repeat_batch(values: Tensor, size: int | None = None) -> Tensor:
    """Return the batch twice, one after the other: [B, ...] -> [2B, ...]. [1, ...] is expanded to `size` first."""
    if size is not None:
        values = values.expand(size, *values.shape[1:])
    return torch.cat([values, values])


def as_bits(values: Tensor) -> Tensor:
    """Return uint16 numbers as int16 of the same bits, which torch moves about where it cannot move uint16."""
    return values.view(torch.int16) if values.dtype == torch.uint16 else values
