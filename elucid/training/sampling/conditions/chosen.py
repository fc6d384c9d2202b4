"""The conditions that a model takes for its samples: maps and vectors of labels, as the options name them."""

import numpy as np
import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.config.build import make_encoder
from elucid.training.data.base import Dataset
from elucid.training.data.conditions.maps import require_size
from elucid.training.sampling.conditions.given import GivenConditions, read_vectors
from elucid.training.sampling.conditions.opening import open_arrays
from elucid.training.sampling.options import SampleOptions
from elucid.training.snapshots.snapshot import Snapshot, check_component
from elucid.training.transforms.maps import ConditionMaps
from elucid.training.types import MAPS


def given_conditions(
    snapshot: Snapshot, options: SampleOptions, device: torch.device, measurements: Tensor | None = None
) -> GivenConditions | None:
    """Return the conditions for a snapshot, with `measurements` if there are many; None if there are none.

    Raises UserError if it takes some that are not given, or is given some that it does not take, or of another form.
    """
    spec = snapshot.ema.spec
    maps = transform = labels = None
    vectors = bool(snapshot.dataset.get("vector_labels"))
    for name, takes, why in (
        ("cond_images", MAPS in spec.spatial, "a map for each sample: a folder or zip of them, or a file of one"),
        ("cond_labels", vectors, f"a vector of {spec.label_dim} numbers for each sample: .npy [N,{spec.label_dim}]"),
    ):
        given = getattr(options, name)
        if takes and given is None:
            raise UserError(f"the model takes {why}; give `{name}`")
        if given is not None and not takes and not (name == "cond_labels" and spec.label_dim):
            raise UserError(f"`{name}`={given}: the model was trained without such a condition; leave it out")
    if options.class_policy == "none" and spec.label_dim and not vectors:
        labels = np.zeros((1, spec.label_dim), dtype=np.float32)
    if labels is None and options.cond_images is None and options.cond_labels is None and options.measurement is None:
        if options.members is not None:
            raise UserError("`members` is the number of samples of each condition, and none are given; leave it out")
        return None
    if options.cond_images is not None:
        transform = transform_of(snapshot, device)
        maps = open_arrays(str(options.cond_images), "cond_images")
        require_fitting(maps, snapshot, transform)
    if options.cond_labels is not None:
        labels = read_vectors(options.cond_labels, spec.label_dim)
    return GivenConditions(maps, transform, labels, measurements, 1 if options.members is None else options.members)


def transform_of(snapshot: Snapshot, device: torch.device) -> ConditionMaps:
    """Return how a model sees maps. Raises UserError if its snapshot does not say, or names code not trusted."""
    about = snapshot.options.get("maps")
    encoder, channels = (about.get("encoder"), about.get("channels")) if isinstance(about, dict) else (None, None)
    if not isinstance(encoder, dict) or type(channels) is not int:
        raise UserError("the snapshot's options do not say how it takes its maps; get the file again")
    check_component("encoder", encoder)
    return ConditionMaps(make_encoder(encoder, device), channels)


def require_fitting(maps: Dataset, snapshot: Snapshot, transform: ConditionMaps) -> None:
    """Raise UserError for maps of another kind, number of channels or size than the model was trained with."""
    if maps.channels != transform.channels:
        raise UserError(
            f"`cond_images`={maps.path} has maps of {maps.channels} channels, the model takes {transform.channels}; "
            "give maps like those that it was trained with"
        )
    if (maps.arrays is None) != transform.encoder.pictures:
        kinds = ("pictures", "arrays") if maps.arrays is None else ("arrays", "pictures")
        raise UserError(f"`cond_images`={maps.path} holds {kinds[0]}, the model takes {kinds[1]}; convert them")
    enlarges = bool(snapshot.options.get("dataset", {}).get("cond_enlarge"))
    require_size(maps.resolution, snapshot.ema.spec.resolution, maps.path, enlarges)
