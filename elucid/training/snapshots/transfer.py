"""Initialises a run with the weights of a snapshot, and loads snapshots as frozen teachers."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.preconds.base import Preconditioned
from elucid.training.snapshots.snapshot import Snapshot, load_snapshot
from elucid.training.snapshots.transformers.halves import state_for
from elucid.training.types import Cond, Prediction


class Teacher:
    """A frozen denoiser. It is not an nn.Module, so that states, averages and optimizers do not include it."""

    def __init__(self, denoiser: Preconditioned):
        self.denoiser = denoiser.eval().requires_grad_(False)

    def __call__(self, x: Tensor, sigma: Tensor | float, cond: Cond | None = None) -> Prediction:
        return self.denoiser(x, sigma, cond)

    def __getattr__(self, name: str):
        if name == "denoiser":  # not set yet while copying
            raise AttributeError(name)
        return getattr(self.denoiser, name)


def load_teacher(path: str, device: torch.device | str) -> Teacher:
    """Load the first average of a snapshot or published checkpoint as a frozen teacher. Raises UserError."""
    return Teacher(load_snapshot(path, device).ema)


def transfer(snapshot: Snapshot, denoiser: Preconditioned) -> str:
    """Copy weights with matching name and shape from the snapshot's first average; returns a report.

    Of a transformer with a variance, a network without one takes the other half of the last layer.

    Raises UserError if no weight matches.
    """
    old, new = state_for(denoiser, snapshot.ema), denoiser.state_dict()
    copied = [name for name, value in new.items() if name in old and old[name].shape == value.shape]
    if not copied:
        raise UserError("`transfer`: no weight of the snapshot fits this network; train with the snapshot's `arch`")
    with torch.no_grad():
        for name in copied:
            new[name].copy_(old[name])
    left = [name for name in new if name not in copied]
    unused = [name for name in old if name not in copied]
    numbers = sum(new[name].numel() for name in copied)
    report = f"transferred {len(copied)} of {len(new)} tensors, {numbers / 1e6:.2f} M numbers"
    for names, what in ((left, "left as initialised"), (unused, "not used")):
        if names:
            report += f"; {what}: {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return report
