"""Weights of a snapshot for a run that starts, and snapshots as frozen teachers."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.preconds.base import Preconditioned
from elucid.training.snapshots.snapshot import Snapshot, load_snapshot
from elucid.training.types import Cond, Prediction


class Teacher:
    """A denoiser that is called, and not trained: it is no module, so it is in no state, average or optimizer."""

    def __init__(self, denoiser: Preconditioned):
        self.denoiser = denoiser.eval().requires_grad_(False)

    def __call__(self, x: Tensor, sigma: Tensor | float, cond: Cond | None = None) -> Prediction:
        return self.denoiser(x, sigma, cond)

    def __getattr__(self, name: str):
        if name == "denoiser":  # not there yet while copying
            raise AttributeError(name)
        return getattr(self.denoiser, name)


def load_teacher(path: str, device: torch.device | str) -> Teacher:
    """The first average of a snapshot or published checkpoint, frozen. Raises UserError for a file that is none."""
    return Teacher(load_snapshot(path, device).ema)


def transfer(snapshot: Snapshot, denoiser: Preconditioned) -> str:
    """Copy every weight of the snapshot's first average whose name and shape the denoiser has; returns what was done.

    Raises UserError if there is none.
    """
    old, new = snapshot.ema.state_dict(), denoiser.state_dict()
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
