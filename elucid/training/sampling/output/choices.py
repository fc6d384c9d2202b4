"""How samples are written and shown: the choices of generate.py."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import atomic_write, require_writable
from elucid.training.data import npy
from elucid.training.encoders.base import Encoder
from elucid.training.registry.components import resolved
from elucid.training.sampling.output.colours import colour_table, pictures_of, require_channels
from elucid.training.sampling.output.folder import SampleFolder
from elucid.training.sampling.output.forms import ArrayFiles, Form, Pictures

FORMATS = ("png", "npy")
DESCRIBED = ("mean", "std", "channel_names", "units")
"""Options of the encoder of arrays that a folder of samples keeps, so that others find the same normalisation."""


@dataclass(frozen=True)
class OutputChoices:
    """`format` of the files, by default npy for arrays and png for pictures; `npz` is a file of all samples.

    `colormap` and `channels` are those of pictures of arrays, see `colours`. `summary` is a file of what the samples of
    each condition say together, see `summary`.
    """

    format: str | None = None
    npz: str | os.PathLike | None = None
    colormap: str | None = None
    channels: Sequence[int] | None = None
    summary: str | os.PathLike | None = None

    def check(self, encoder: Encoder, count: int) -> None:
        """Raise UserError for choices that do not fit what an encoder decodes to, `count` channels, before sampling."""
        if self.format not in (None, *FORMATS):
            raise UserError(f"`format`={self.format} must be one of {', '.join(FORMATS)}")
        given = [name for name in ("colormap", "channels") if getattr(self, name) is not None]
        if encoder.pictures and given:
            raise UserError(f"`{given[0]}`: the model makes pictures, which have colours of their own; leave it out")
        if self.colormap is not None:
            colour_table(self.colormap)
        if self.channels is not None:
            require_channels(self.channels, count)
        for name, value in (("npz", self.npz), ("summary", self.summary)):
            if value is not None and not str(value).endswith(".npz"):
                raise UserError(f"`{name}`={value} must end in .npz")
            if value is not None and self.format == "png" and not encoder.pictures:
                raise UserError(f"`{name}` holds arrays and `format`=png pictures of them; leave one out")
        if self.npz is not None:
            require_writable(os.fspath(self.npz))

    def form(self, encoder: Encoder) -> Form:
        """Return the form of the files."""
        if encoder.pictures:
            return ArrayFiles() if self.format == "npy" else Pictures()
        return _Coloured(self, encoder) if self.format == "png" else ArrayFiles()

    def described(self, encoder: Encoder) -> dict[str, object]:
        """Return what `dataset.json` says of the samples: of arrays, their encoder."""
        if self.form(encoder).suffix != npy.SUFFIX:
            return {}
        options = resolved(encoder)
        return {"encoder": {"name": "arrays", **{k: options[k] for k in DESCRIBED if options.get(k) is not None}}}

    def pictures(self, samples: Tensor, encoder: Encoder) -> Tensor:
        """Return samples as the grid shows them, u8[N,1 or 3,h,w]."""
        if encoder.pictures or self.format == "png":
            return samples
        return pictures_of(samples, encoder, self.colormap or "gray", self.channels)

    def description(self, encoder: Encoder) -> dict[str, object]:
        """Return what of the choices determines the files, which is nothing for most."""
        if encoder.pictures or self.format != "png":
            return {}
        return {"colormap": self.colormap or "gray", "channels": self.channels and list(self.channels)}


class _Coloured(Pictures):
    """PNG files of arrays through a colour map."""

    def __init__(self, choices: OutputChoices, encoder: Encoder):
        self.choices, self.encoder = choices, encoder

    def encoded(self, sample: Tensor, note: dict) -> bytes:
        shown = pictures_of(sample[None], self.encoder, self.choices.colormap or "gray", self.choices.channels)
        return super().encoded(shown[0], note)


def write_npz(folder: SampleFolder, classes: Mapping[int, int | None], path: str | os.PathLike) -> None:
    """Write the samples of these seeds to one file, `samples` [N,C,H,W] and, if they have classes, `labels` i64[N].

    One sample is in memory at a time. Raises UserError if it cannot be written.
    """
    labels = list(classes.values())
    try:
        with atomic_write(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            with archive.open("samples.npy", "w", force_zip64=True) as member:
                for index, (seed, of) in enumerate(classes.items()):
                    sample = folder.form.read(folder.path / folder.name(seed, of))
                    if not index:
                        shape = (len(classes), *sample.shape)
                        about = {"descr": sample.dtype.str, "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(member, about)
                    member.write(np.ascontiguousarray(sample).tobytes())
            if None not in labels:
                with archive.open("labels.npy", "w") as member:
                    np.lib.format.write_array(member, np.array(labels, dtype=np.int64))
    except OSError as error:
        raise UserError(f"`npz`={path} cannot be written: {error.strerror}; make room and run again") from error
