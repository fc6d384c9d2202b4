"""What a dataset says of its arrays: the options of the encoder `arrays`, in the `encoder` of its `dataset.json`."""

from elucid.dnnlib.errors import UserError
from elucid.training.encoders.statistics import ChannelStatistics

NAME = "arrays"
"""Name of the encoder of arrays, by which their datasets are told from those of latents."""

DTYPES = ("uint8", "uint16", "float16", "float32")
"""Types in which arrays are stored."""

MOST_CHANNELS = 4096


def are_arrays(encoder: dict | None) -> bool:
    """Return whether a dataset with this encoder holds arrays, neither pictures nor latents."""
    return encoder is not None and encoder.get("name") == NAME


def form_of(encoder: dict, where: str) -> dict:
    """Return the encoder of arrays as a `dataset.json` has it, without what is unknown.

    `mean` and `std` [C] normalise them and may be missing, as `channel_names` and `units` [C] may. Raises UserError if
    it is damaged.
    """
    found = {key: encoder[key] for key in ("mean", "std", "channel_names", "units") if encoder.get(key) is not None}
    try:
        statistics = ChannelStatistics.of(found)
    except UserError as error:
        raise UserError(f'{where}: "encoder" of arrays is damaged ({error}); convert the arrays again') from error
    texts = [found[key] for key in ("channel_names", "units") if key in found]
    lengths = {len(text) for text in texts if _is_texts(text)} | ({len(statistics.mean)} if statistics else set())
    if not all(map(_is_texts, texts)) or len(lengths) > 1:
        raise UserError(
            f'{where}: "encoder" of arrays is damaged: channel_names and units are lists of one text for each channel'
        )
    return {"name": NAME, **found}


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and len(value) <= MOST_CHANNELS and all(isinstance(one, str) for one in value)
