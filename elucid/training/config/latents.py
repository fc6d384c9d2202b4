"""Which encoder a run on stored latents or arrays uses, and whether its statistics are theirs."""

import math

import numpy as np

from elucid.dnnlib.errors import UserError, note
from elucid.dnnlib.progress import progress_bar
from elucid.torch_utils import distributed
from elucid.training.data.arrays.missing import finite_image
from elucid.training.data.arrays.statistics import ChannelStream
from elucid.training.data.base import Dataset
from elucid.training.data.latents import as_flags, pasted
from elucid.training.data.statistics import channel_sums, moments_of
from elucid.training.encoders.edm2 import are_edm2s
from elucid.training.encoders.statistics import ChannelStatistics
from elucid.training.registry.components import find, merged, split
from elucid.training.registry.names import ENCODERS, OPTIONS

MOST_ARRAYS = 20_000
"""Arrays that are measured if a dataset does not say the statistics of its channels."""

SAMPLE = 256
"""Latents that are measured before training."""

FAR, WIDE = 0.75, 2.0
"""How far a channel's mean, in deviations, and its deviation, as a ratio, may be from the statistics in use."""


NORMALISATION = ("scale", "mean", "std", "final_std")
"""Options that say how raw latents become the network's."""


def stored_encoder(component: dict, dataset: Dataset) -> dict:
    """Return the encoder component for a dataset, completed with the encoder of its stored latents.

    Statistics of one's own may take the place of the stored normalisation, since latents are stored without it, and a
    factor, as of a published recipe, the place of measured statistics. Raises UserError if the latents were made with
    another encoder, range of pixels, scale factor or weights.
    """
    stored = dataset.encoder
    if stored is None:
        return component
    name, options = split(component, "encoder")
    of_vae = ENCODERS.get(name) == ENCODERS[stored["name"]]
    if not of_vae and (stored["sha256"] is not None or name == "rgb"):
        raise UserError(f"{dataset.path} holds latents, not images; train on them with `train_on_latents`=1")
    given = {key: value for key, value in options.items() if value is not None}
    pixels = merged(OPTIONS["encoder"].get(name, {}), given).get("pixels")
    if stored["sha256"] is None and (not of_vae or pixels not in (None, stored["pixels"])):
        return component  # the latents do not say what they are, but the options do
    _require_same(dataset, stored, {**given, "pixels": pixels})
    own = "mean" in given or "std" in given
    if own and (statistics := ChannelStatistics.of(given)) and 2 * len(statistics.mean) != dataset.channels:
        raise UserError(
            f"encoder.mean and encoder.std have {len(statistics.mean)} numbers, but {dataset.path} holds latents of "
            f"{dataset.channels // 2} channels; give one for each channel"
        )
    if factor := _takes_their_place(given, stored):
        note(
            f"encoder.scale={given['scale']:g} takes the place of the statistics measured of {dataset.path}; leave it "
            "out (encoder.scale=null beside a preset) to normalise by them"
        )
    rest = {key: value for key, value in stored.items() if not (own or factor) or key not in NORMALISATION}
    return {**rest, **given, "name": name, "sha256": stored["sha256"] or given.get("sha256")}


def _takes_their_place(given: dict, stored: dict) -> bool:
    """Whether a given factor replaces measured statistics; EDM2's it must not, which the encoder says."""
    measured_ones = stored.get("mean") is not None and not are_edm2s(stored["mean"], stored["std"])
    return measured_ones and "scale" in given and "mean" not in given


def encoder_for(component: dict, dataset: Dataset, precond: dict, part: str = "encoder") -> dict:
    """Return `stored_encoder` or that of arrays, with the deviation that the preconditioner wants if none is given.

    A flow's path is made for latents of deviation 1, EDM's defaults for 0.5; the options of the run keep which it was.
    """
    encoder = stored_encoder(component, dataset) if dataset.arrays is None else array_encoder(component, dataset, part)
    name = encoder.get("name")
    options = merged(OPTIONS["encoder"].get(name, {}), encoder)
    known = ENCODERS.get(name) in (ENCODERS["vae"], ENCODERS["arrays"])
    if not known or options.get("mean") is None or options.get("final_std") is not None:
        return encoder
    return {**encoder, "final_std": find("preconditioner", split(precond, "precond")[0]).latent_std}


def array_encoder(component: dict, dataset: Dataset, part: str = "encoder") -> dict:
    """Return the encoder of a dataset's arrays: statistics as given, or as it says, or else as they are measured now.

    Encoders from outside are left as they are. Raises UserError for one of pictures, and for channels that are
    constant.
    """
    name, options = split(component, "encoder")
    if name not in ("rgb", "arrays") and name in ENCODERS:
        raise UserError(f"{dataset.path} holds arrays, which the encoder {name} does not take; leave it out")
    if name not in ("rgb", "arrays"):
        return component
    given = {key: value for key, value in options.items() if value is not None}
    encoder = {**(dataset.arrays or {}), **given, "name": "arrays", "dtype": dataset.image(0).dtype.name}
    if encoder.get("mean") is None and encoder.get("std") is None:
        found = measured_arrays(dataset, part) if distributed.is_main() else None
        distributed.wait_for_all("mean and deviation of the channels are measured")
        mean, std = distributed.broadcast_object(found)
        distributed.print0(f"channels  mean {pasted(mean)}, deviation {pasted(std)} (measured)")
        encoder |= {"mean": mean.tolist(), "std": std.tolist()}
    return encoder


def measured_arrays(dataset: Dataset, part: str = "encoder") -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation f64[C] of the channels of a dataset, of `MOST_ARRAYS` arrays if it has more.

    Raises UserError for values that are not finite, and for channels that are constant.
    """
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(MOST_ARRAYS, len(dataset))).astype(int))
    stream = ChannelStream(dataset.channels)
    for index in progress_bar(chosen, desc="mean and deviation of channels", delay=1, leave=False):
        stream.add(finite_image(dataset, int(index)))
    found = stream.summary()
    if found.constant:
        place = found.constant[0]
        raise UserError(
            f"channel {place} of {dataset.path} is constant ({found.minimum[place]:g}); leave it out by "
            f"dataset_tool.py --array-channels, or give {part}.mean and {part}.std"
        )
    return found.mean, found.std


def _require_same(dataset: Dataset, stored: dict, given: dict) -> None:
    """Raise UserError if options contradict what the data set says of its latents."""
    ranges = {"signed": "[-1, 1]", "unit": "[0, 1]"}
    there = stored.get("pixels", "signed")
    if given["pixels"] not in (None, there):
        raise UserError(
            f"{dataset.path} holds latents of pixels in {ranges[there]}, but encoder.pixels is {given['pixels']}, "
            "perhaps by encoder.name=edm2_vae, whose statistics belong to [0, 1]; leave both out, or encode the images "
            "again with dataset_tool.py encode"
        )
    for option in ("scale", "sha256"):
        if stored.get(option) is not None and given.get(option) not in (None, stored[option]):
            raise UserError(
                f"{dataset.path} holds latents of encoder.{option}={stored[option]}, not {given[option]}; "
                f"leave encoder.{option} out, or encode the images again"
            )


def check_statistics(component: dict, dataset: Dataset) -> None:
    """Compare a sample of the stored latents with the statistics that are to normalise them.

    Raises UserError if they are far apart, as when the latents are of pixels in another range. Statistics that the
    component itself names, as those of a resumed run, give a warning instead.
    """
    if dataset.encoder is None:
        return
    encoder = stored_encoder(component, dataset)
    statistics = ChannelStatistics.of(merged(OPTIONS["encoder"].get(encoder["name"], {}), encoder))
    if statistics is None or encoder.get("scale") is not None or dataset.channels != 2 * len(statistics.mean):
        return  # what does not fit is refused by the encoder
    mean, std = measured(dataset)
    away, ratio = np.abs(mean - statistics.mean) / statistics.std, std / statistics.std
    if (away <= FAR).all() and (ratio >= 1 / WIDE).all() and (ratio <= WIDE).all():
        return
    text = (
        f"the latents of {dataset.path} have mean {pasted(mean)} and deviation {pasted(std)}, but the statistics that "
        f"are to normalise them are {pasted(statistics.mean)} and {pasted(statistics.std)}: they are of another VAE, "
        "or of pixels in [-1, 1] where EDM2's are in [0, 1]"
    )
    if component.get("mean") is None:
        raise UserError(
            f"{text}; train with their own, {as_flags(mean, std)}, or insist on these by giving them in the same way"
        )
    distributed.print0(f"warning: {text}")


def measured(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation [C] of the raw latents of a sample, spread evenly over the dataset."""
    chosen = np.unique(np.linspace(0, len(dataset) - 1, min(SAMPLE, len(dataset))).astype(int))
    total, squares = (
        sum(parts) for parts in zip(*(channel_sums(dataset, int(index)) for index in chosen), strict=True)
    )
    return moments_of(total, squares, len(chosen) * math.prod(dataset.resolution))
