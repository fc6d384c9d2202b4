"""Inception weights of the reference vectors: filled by formula, as no public file is needed to check numbers."""

import torch

from tests import vectors


def state(salt: str, shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """The state dict of the vectors' README: variances 1 + |value|, counts 0, everything else by the common formula."""
    values = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            values[name] = torch.tensor(0)
        elif name.endswith("running_var"):
            values[name] = 1 + vectors.formula(salt, name, shape).abs()
        else:
            values[name] = vectors.formula(salt, name, shape)
    return values
