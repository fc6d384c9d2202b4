"""Teachers: frozen denoisers that losses learn from."""

import copy
import re
from typing import Any

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Load, Loss, name_of
from elucid.training.preconds.base import Denoiser, Preconditioned

UNUSED = re.compile(r"^uncertainty\.|\.map_augment\.")
"""Weights of a teacher that a run without them does as well without: those of its training only."""


def require_path(loss: Loss, path: str | None, what: str = "a teacher, the snapshot of a trained model") -> None:
    """Raise UserError if no teacher was named."""
    if not path:
        raise UserError(f"the loss {name_of(loss)} needs {what}; give it with `teacher`")


def open_teacher(loss: Loss, load: Load, path: str | None, denoiser: Preconditioned) -> Any:
    """Open the teacher at `path`, which must be a denoiser of the same images. Raises UserError, naming both sides.

    It is called as a denoiser, without gradients of its weights, and is no part of states.
    """
    require_path(loss, path)
    teacher = load(str(path))
    theirs, ours = teacher.spec, denoiser.spec
    if not isinstance(teacher.denoiser, Denoiser):
        raise UserError(f"`teacher`={path} contains a {type(teacher.denoiser).__name__}, not a denoiser")
    (height, width), (high, wide) = theirs.resolution, ours.resolution
    pairs = (
        ("makes images of", f"{width}x{height}", f"{wide}x{high}"),
        ("makes channels:", theirs.image_channels, ours.image_channels),
        ("knows classes:", theirs.label_dim, ours.label_dim),
        ("makes", *("latents" if spec.latent else "images" for spec in (theirs, ours))),
        ("is given maps:", *(", ".join(spec.spatial) or "none" for spec in (theirs, ours))),
    )
    for what, one, other in pairs:
        if one != other and not (what == "knows classes:" and one == 0):
            raise UserError(f"`teacher`={path} {what} {one}, the run: {other}; choose a teacher of the same data")
    return teacher


def copy_of_teacher(teacher: Any, denoiser: Denoiser, path: str | None, why: str) -> Denoiser:
    """Return a copy of the run's denoiser with the teacher's weights. Raises UserError if they do not fit."""
    made = copy.deepcopy(denoiser)
    ours, theirs = made.state_dict(), teacher.denoiser.state_dict()
    theirs = {name: one for name, one in theirs.items() if name in ours or not UNUSED.search(name)}
    shapes, others = ({name: one.shape for name, one in state.items()} for state in (ours, theirs))
    theirs_by_name, ours_by_name = type(teacher.denoiser).__name__, type(denoiser).__name__
    if theirs_by_name != ours_by_name or shapes != others:
        classes = teacher.spec.label_dim, denoiser.spec.label_dim
        what = f"classes {classes[0]}, the run {classes[1]}" if classes[0] != classes[1] else "another network"
        if theirs_by_name != ours_by_name:
            what = f"the preconditioner {theirs_by_name}, the run {ours_by_name}"
        raise UserError(f"`teacher`={path} has {what}, {why}; choose the teacher's `arch`, `precond` and classes")
    made.load_state_dict(theirs)
    return made.train().requires_grad_(True)
