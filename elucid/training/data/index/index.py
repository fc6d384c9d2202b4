"""What is known of all files of a large dataset: names, places, labels, and whether the headers were checked."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from elucid.training.data.archives import FileSet, FolderFiles, ZipColumns, ZipFiles
from elucid.training.data.cache_entries import Use
from elucid.training.data.index.names import Names
from elucid.training.data.index.table import read_table
from elucid.training.data.labels import Labels

VERSION = 1
_COLUMNS = ("offsets", "sizes", "lengths", "checksums", "methods")


@dataclass
class Index:
    """Facts and arrays of a dataset, those of a `file` in the cache if it is kept, which stays while it is in use.

    Arrays: `names` and `starts` of all files, `where` [N] the images are among them, `labels` [N] or [N,D] if there are
    any; of a zip `offsets`, `sizes`, `lengths`, `checksums`, `methods`; of a folder `folders`, `folder_starts`,
    `folder_times`, `samples`, `sample_sizes` and `sample_times`.
    """

    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]
    file: Path | None = None
    _use: Use | None = field(default=None, repr=False)

    @classmethod
    def read(cls, file: Path) -> "Index":
        """Map a file. Raises UserError or OSError if it is damaged or missing."""
        use = Use(file)
        return cls(*read_table(file), file, use)

    @property
    def names(self) -> Names:
        return Names(self.arrays["names"], self.arrays["starts"])

    @property
    def where(self) -> np.ndarray:
        """The positions of the images among the files, int64 [N]."""
        return self.arrays["where"]

    @property
    def labels(self) -> Labels | None:
        if "labels" not in self.arrays:
            return None
        return Labels(self.arrays["labels"], self.facts["class_names"], self.facts["label_dim"])

    @property
    def encoder(self) -> dict | None:
        """The encoder of stored latents, or of arrays; None if the dataset holds images."""
        return self.facts["encoder"]

    @property
    def checked(self) -> bool:
        """Whether all headers have been read and agree."""
        return self.facts["checked"]

    def fits(self, fingerprint: str) -> bool:
        """Return whether this is of the zip with a fingerprint, or of a folder that looks as it did."""
        if self.facts.get("version") != VERSION:
            return False
        if "folder" in self.facts:
            return self.facts["folder"] == fingerprint and unchanged(self)
        return self.facts["fingerprint"] == fingerprint

    def __getstate__(self) -> dict:  # the path, not the content
        return {"file": self.file} if self.file is not None else {"facts": self.facts, "arrays": self.arrays}

    def __setstate__(self, state: dict) -> None:
        whole = Index.read(state["file"]) if "file" in state else Index(**state)
        self.__dict__.update(whole.__dict__)


class IndexedZip(ZipFiles):
    """The files of a zip as its index has them."""

    def __init__(self, path: Path, inside: str, index: Index):
        super().__init__(path, inside, ZipColumns(index.names, *(index.arrays[name] for name in _COLUMNS)))
        self.index = index

    def __getstate__(self) -> dict:
        return {key: value for key, value in super().__getstate__().items() if key not in ("names", "columns")}

    def __setstate__(self, state: dict) -> None:
        index = state["index"]
        columns = ZipColumns(index.names, *(index.arrays[name] for name in _COLUMNS))
        super().__setstate__({**state, "columns": columns, "names": columns.names})


class IndexedFolder(FolderFiles):
    """The files below a folder as its index has them."""

    def __init__(self, path: Path, index: Index):
        super().__init__(path, index.names)
        self.index = index

    def fingerprint(self) -> str:
        return self.index.facts["fingerprint"]

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "names"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self.names = self.index.names


def columns_of(files: FileSet, description: int | None) -> dict[str, np.ndarray]:
    """Return the arrays of a zip or folder besides the names; `description` is the position of its `dataset.json`."""
    if isinstance(files, ZipFiles):
        return {name: getattr(files.columns, name) for name in _COLUMNS}
    folders = sorted(files.folders)
    block = Names.of(folders)
    samples = np.union1d(sample(len(files)), [] if description is None else [description]).astype(np.int64)
    sizes, times = stats_of(files.path, (files.names[index] for index in samples.tolist()))
    return {
        "folders": block.block,
        "folder_starts": block.starts,
        "folder_times": np.array([files.folders[name] for name in folders], dtype=np.int64),
        "samples": samples,
        "sample_sizes": sizes,
        "sample_times": times,
    }


SAMPLES = 1000
"""Files of a folder that are looked at when it is opened, besides its folders."""


def sample(count: int) -> np.ndarray:
    """Return positions of some of the files, evenly spaced, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(SAMPLES, count)).astype(np.int64))


def stats_of(path: str, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return sizes and modification times in ns of files. Raises OSError."""
    found = [os.stat(os.path.join(path, name)) for name in names]
    sizes, times = [one.st_size for one in found], [one.st_mtime_ns for one in found]
    return np.array(sizes, dtype=np.int64), np.array(times, dtype=np.int64)


def unchanged(index: Index) -> bool:
    """Return whether a folder has the files that it had: none came, went, was renamed, or, of some, was changed.

    A file that comes, goes or is replaced changes its folder's modification time; so the files themselves, which may be
    millions, need not be looked at.
    """
    path, arrays = index.facts["path"], index.arrays
    folders = Names(arrays["folders"], arrays["folder_starts"])
    try:
        _, times = stats_of(path, folders)
        sizes, sample_times = stats_of(path, [index.names[place] for place in arrays["samples"].tolist()])
    except OSError:
        return False
    pairs = ((times, "folder_times"), (sizes, "sample_sizes"), (sample_times, "sample_times"))
    return all(np.array_equal(now, arrays[before]) for now, before in pairs)
