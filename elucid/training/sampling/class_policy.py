"""How the classes of samples are chosen, if they are not given."""

from collections.abc import Sequence

import numpy as np

from elucid.dnnlib.errors import UserError

POLICIES = ("random", "equal", "data", "none")


def policy_classes(policy: str, seeds: Sequence[int], counts: Sequence[int]) -> list[int] | None:
    """Return the class of each seed by a policy, from the number of training images of each class.

    `random` draws it with the seed (None), `equal` takes all classes in turn, `data` takes them as often as the
    training data has them; `none` is no class, for models that dropped labels (None here). Each beginning of the list
    of different seeds has the right shares, but for about one image of each class, so that a longer list goes on where
    a shorter one ended.
    """
    if policy in ("random", "none"):
        return None
    different = dict.fromkeys(seeds)
    if policy == "equal":
        counts = [1] * len(counts)
    of_each = dict(zip(different, in_turn(counts, len(different)), strict=True))
    return [of_each[seed] for seed in seeds]


def in_turn(counts: Sequence[int], num: int) -> list[int]:
    """Return `num` classes in the proportions of `counts`: each time the one most behind, of equals the first."""
    shares = np.asarray(counts, dtype=np.float64) / np.sum(counts)
    behind, classes = np.zeros(len(counts)), []
    for _ in range(num):
        behind += shares
        chosen = int(np.argmax(behind.round(9)))
        behind[chosen] -= 1
        classes.append(chosen)
    return classes


def require_policy(policy: str | None, classes: object, label_dim: int, counts: Sequence[int] | None) -> None:
    """Raise UserError for an unknown policy, or one that the model or other options exclude."""
    if policy is None:
        return
    if policy not in POLICIES:
        raise UserError(f"unknown `class_policy` {policy!r}; known: {', '.join(POLICIES)}")
    if classes is not None:
        raise UserError("`class_policy` chooses classes that are not given; leave `classes` out, or `class_policy`")
    if not label_dim:
        raise UserError("`class_policy`: the model was trained without classes; leave `class_policy` out")
    if policy == "data" and (counts is None or len(counts) != label_dim or not sum(counts)):
        raise UserError(
            "`class_policy`=data: the snapshot does not say how many training images each class has; use "
            "`class_policy`=equal, or make a snapshot with this version"
        )
