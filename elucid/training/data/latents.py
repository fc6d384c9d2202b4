"""Which encoder made the stored latents of a dataset, or which takes its arrays."""

import math
from collections.abc import Iterable

from elucid.dnnlib.errors import UserError, note
from elucid.dnnlib.reading.json_text import parse_json
from elucid.training.data import npy
from elucid.training.data.archives import FileSet
from elucid.training.data.arrays.form import NAME as ARRAYS
from elucid.training.data.arrays.form import are_arrays, form_of
from elucid.training.data.arrays.members import holds_arrays
from elucid.training.encoders.edm2 import EDM2_VAE
from elucid.training.encoders.statistics import ChannelStatistics

EDM2_CHANNELS = 8  # means and standard deviations of four


def stored_by(source: FileSet) -> dict | None:
    """Return the encoder of latents or arrays from the dataset's `dataset.json`; None if the dataset holds images.

    The encoder is {"name", "model", "scale" or the statistics, "sha256" of the weights}; see `recognised`. Statistics
    are "mean" and "std", and "final_std" unless it is left to the preconditioner. Raises UserError if it is damaged.
    """
    where = source.find("dataset.json")
    text = b"" if where is None else source.read(where)
    if b'"encoder"' not in text:  # avoids parsing a large file twice
        return recognised(source)
    content = parse_json(text, f"{source.path}/dataset.json", len(source))
    return encoder_of(content, f"{source.path}/dataset.json") or recognised(source)


def recognised(source: FileSet) -> dict | None:
    """Return EDM2's encoder, without a hash of weights, if files that name none have the form of its latents.

    This is eight float channels in `.npy` files, and no pictures. Other files of arrays without pictures are arrays.
    Raises UserError for a damaged file.
    """
    if not holds_arrays(source):
        return None
    first = next((i for i, name in enumerate(source.names) if name.endswith(npy.SUFFIX)), None)
    if first is None:
        return {"name": ARRAYS}
    array = npy.from_npy(source.read(first), source.label_of(first), npy.ARRAYS)
    if len(array) != EDM2_CHANNELS or array.dtype.name not in npy.DTYPES:
        return {"name": ARRAYS}
    return {"name": "vae", **EDM2_VAE, "sha256": None}


def note_recognised(path: str, encoder: dict) -> None:
    """Print a note, once, if the encoder of latents is not known but recognised, how, and how to choose another."""
    if encoder["sha256"] is None:
        note(
            f"{path} names no encoder; 8 float channels are EDM2's form of latents, so they are taken as those of "
            f"edm2_vae ({encoder['model']}, pixels in [0, 1], EDM2's statistics). Other VAE: --set encoder.model=PATH; "
            "latents of pixels in [-1, 1]: --set encoder.pixels=signed; own statistics: dataset_tool.py verify. If "
            "they are arrays, convert them with dataset_tool.py, which notes that"
        )


def encoder_of(content: object, where: str) -> dict | None:
    """Return the encoder in the content of a `dataset.json`, or None; see `stored_by`."""
    encoder = content.get("encoder") if isinstance(content, dict) else None
    if encoder is None:
        return None
    if isinstance(encoder, dict) and are_arrays(encoder):
        return form_of(encoder, where)
    damaged = UserError(f'{where}: "encoder" is damaged; encode the images again')
    kinds = {"name": str, "model": str, "scale": (int, float), "sha256": str}
    if isinstance(encoder, dict) and encoder.get("mean") is not None:
        try:
            ChannelStatistics.of(encoder)
        except UserError as error:
            raise damaged from error
        kinds = {"name": str, "model": str, "mean": list, "std": list, "sha256": str}
        if "final_std" in encoder:  # otherwise that which the preconditioner wants
            kinds["final_std"] = (int, float)
    good = isinstance(encoder, dict) and all(isinstance(encoder.get(key), kind) for key, kind in kinds.items())
    if good and "scale" in kinds:
        good = 0 < encoder["scale"] < math.inf
    if not good or encoder.get("pixels", "unit") not in ("signed", "unit"):
        raise damaged
    return {key: encoder[key] for key in [*kinds, *(["pixels"] if "pixels" in encoder else [])]}


def encoder_line(encoder: dict) -> str:
    """Return a line that describes the encoder of stored latents."""
    statistics = ChannelStatistics.of(encoder)
    if statistics is None:
        how = f"factor {encoder['scale']:g}"
    else:
        how = f"mean {pasted(statistics.mean)}, std {pasted(statistics.std)}"
        how += f" to {statistics.final_std:g}" if "final_std" in encoder else ""
    pixels = ", pixels in [0, 1]" if encoder.get("pixels") == "unit" else ""
    weights = f"weights {encoder['sha256'][:12]}" if encoder["sha256"] else "recognised by the form of the latents"
    return f"encoder: {encoder['model']}, {how}{pixels}, {weights}"


def pasted(values: Iterable[float]) -> str:
    """Return numbers as a list without spaces, in four digits."""
    return f"[{','.join(f'{one:.4g}' for one in values)}]"


def as_flags(mean: Iterable[float], std: Iterable[float]) -> str:
    """Return flags that set the statistics of raw latents."""
    return f"--set='encoder.mean={pasted(mean)}' --set='encoder.std={pasted(std)}'"
