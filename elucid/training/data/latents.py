"""Which encoder made the stored latents of a dataset."""

import math

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading.json_text import parse_json
from elucid.training.data.archives import FileSet


def stored_by(source: FileSet) -> dict | None:
    """Return the encoder of stored latents from the dataset's `dataset.json`; None if the dataset holds images.

    The encoder is {"name", "model", "scale", "sha256" of the weights}. Raises UserError if the entry is damaged.
    """
    where = source.find("dataset.json")
    text = b"" if where is None else source.read(where)
    if b'"encoder"' not in text:  # avoids parsing a large file twice
        return None
    return encoder_of(parse_json(text, f"{source.path}/dataset.json", len(source)), f"{source.path}/dataset.json")


def encoder_of(content: object, where: str) -> dict | None:
    """Return the encoder in the content of a `dataset.json`, or None; see `stored_by`."""
    encoder = content.get("encoder") if isinstance(content, dict) else None
    if encoder is None:
        return None
    kinds = {"name": str, "model": str, "scale": (int, float), "sha256": str}
    good = isinstance(encoder, dict) and all(isinstance(encoder.get(key), kind) for key, kind in kinds.items())
    if not good or not 0 < encoder["scale"] < math.inf:
        raise UserError(f'{where}: "encoder" is damaged; encode the images again')
    return {key: encoder[key] for key in kinds}


def encoder_line(encoder: dict) -> str:
    """Return a line that describes the encoder of stored latents."""
    return f"encoder: {encoder['model']}, factor {encoder['scale']:g}, weights {encoder['sha256'][:12]}"
