"""Initialises a run with the weights of a snapshot, and loads snapshots as frozen teachers."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.preconds.base import Preconditioned
from elucid.training.snapshots.snapshot import Snapshot, load_snapshot
from elucid.training.snapshots.transformers.halves import state_for
from elucid.training.types import Cond, Prediction


class Teacher:
    """A frozen denoiser, and the names of the chain of `losses` that it was trained with, if known.

    It is not an nn.Module, so that states, averages and optimizers do not include it.
    """

    def __init__(self, denoiser: Preconditioned, losses: tuple[str, ...] = ()):
        self.denoiser = denoiser.eval().requires_grad_(False)
        self.losses = losses

    def __call__(self, x: Tensor, sigma: Tensor | float, cond: Cond | None = None) -> Prediction:
        return self.denoiser(x, sigma, cond)

    def __getattr__(self, name: str):
        if name == "denoiser":  # not set yet while copying
            raise AttributeError(name)
        return getattr(self.denoiser, name)


def load_teacher(path: str, device: torch.device | str, precision: str | None = None) -> Teacher:
    """Load the first average of a snapshot or published checkpoint as a frozen teacher. Raises UserError.

    Its network runs in `precision`, by default that of the snapshot.
    """
    snapshot, names = load_snapshot(path, device), []
    loss = snapshot.options.get("loss")
    while isinstance(loss, dict):
        names.append(str(loss.get("name")))
        loss = loss.get("base")
    snapshot.ema.precision = precision or snapshot.ema.precision
    return Teacher(snapshot.ema, tuple(names))


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
    if otherwise_scaled(snapshot.ema, denoiser):
        theirs, ours = type(snapshot.ema).__name__, type(denoiser).__name__
        report += f"; warning: {theirs} scales its network otherwise than {ours}: the run starts from another function"
    return report


def otherwise_scaled(one: Preconditioned, other: Preconditioned) -> bool:
    """Return whether the same network means something else in two preconditioners; small boundaries do not count."""
    sigma = torch.tensor([0.2, 1.0, 5.0]).reshape(-1, 1, 1, 1)
    theirs, ours = (each.coefficients(sigma.to(next(each.parameters()).device)) for each in (one, other))
    pairs = ((a.detach().float().cpu(), b.detach().float().cpu()) for a, b in zip(theirs, ours, strict=True))
    return not all(torch.allclose(a, b, rtol=0.05, atol=1e-3) for a, b in pairs)
