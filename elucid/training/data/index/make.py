"""Makes the index of a dataset from its files."""

import hashlib
import os
from collections.abc import Callable
from itertools import compress
from pathlib import Path

import numpy as np

from elucid.dnnlib.progress import progress_bar
from elucid.dnnlib.reading.json_text import largest
from elucid.training.data import npy
from elucid.training.data.archives import FileSet, FolderFiles, ZipColumns, ZipFiles
from elucid.training.data.arrays.form import are_arrays
from elucid.training.data.arrays.members import is_array
from elucid.training.data.folders import labels_from_folders, root_folder
from elucid.training.data.index.descriptions import large_description, large_labels
from elucid.training.data.index.index import VERSION, Index, columns_of
from elucid.training.data.index.names import Items, Names
from elucid.training.data.index.zip_table import zip_table
from elucid.training.data.labels import Labels
from elucid.training.data.latents import encoder_of, recognised
from elucid.training.data.pictures import is_picture


def make_index(files: FileSet) -> Index:
    """Return the index of a zip or folder. Raises UserError for invalid labels."""
    names = files.names if isinstance(files.names, Names) else Names.of(files.names)
    encoder = _encoder(files)
    chosen: Callable[[str], bool] = is_picture if encoder is None else is_latent
    chosen = is_array if are_arrays(encoder) else chosen
    bar = progress_bar(names, desc=f"making the index of {files.name}", unit="file", delay=2, leave=False)
    where = np.fromiter(compress(range(len(names)), map(chosen, bar)), np.int64)
    labels, description = _labels(files, Items(names, where)) if len(where) else (None, None)
    packed = names.packed()
    arrays = {"names": packed.block, "starts": packed.starts, "where": where, **columns_of(files, description)}
    facts = {
        "version": VERSION,
        "fingerprint": files.fingerprint(),
        "checked": False,
        "encoder": encoder,
        "class_names": None,
    }
    if isinstance(files, FolderFiles):
        facts |= {"path": os.path.abspath(files.path), "folder": folder_key(Path(files.path))}
    if labels is not None:
        arrays["labels"] = labels.values
        facts |= {"class_names": labels.class_names, "label_dim": labels.dim}
    return Index(facts, arrays)


def is_latent(name: str) -> bool:
    """Return whether a file name is that of a stored latent."""
    return name.endswith(npy.SUFFIX)


def folder_key(path: Path) -> str:
    """Return the key of a folder's index, a hex digest of its path: whether it fits is looked up in it."""
    return hashlib.sha256(b"folder:" + os.fsencode(os.path.abspath(path))).hexdigest()


def open_zip(path: Path, inside: str) -> ZipFiles:
    """Open a large zip without an object for each of its files. Raises UserError."""
    columns = zip_table(path)
    if columns is None:
        return ZipFiles(path, inside)
    if inside:
        first, end = columns.names.inside(f"{inside}/")
        if first == end:
            return ZipFiles(path, inside)  # which says what there is
        names = columns.names.part(first, end, len(f"{inside}/".encode()))
        columns = ZipColumns(names, *(one[first:end] for one in columns[1:]))
    return ZipFiles(path, inside, columns)


def _encoder(files: FileSet) -> dict | None:
    place = files.find("dataset.json")
    text = b"" if place is None else files.read(place, allowed=largest(len(files)))
    where = f"{files.path}/dataset.json"
    named = encoder_of(large_description(text, where, len(files)), where) if b'"encoder"' in text else None
    return named or recognised(files)


def _labels(files: FileSet, items: Items) -> tuple[Labels | None, int | None]:
    """Return the labels, and the position of the `dataset.json` if there is one."""
    root = root_folder(items, files)
    items = Items(items.names, items.where, root)
    place = files.find(f"{root}dataset.json")
    if place is None:
        return labels_from_folders(items), None
    text = files.read(place, allowed=largest(len(files)))
    return large_labels(text, items, f"{files.path}/{root}dataset.json", len(files)), place
