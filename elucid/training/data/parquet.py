"""Pictures in the columns of parquet files, the commonest form of data sets on hubs, through the optional pyarrow."""

import hashlib
import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from elucid.dnnlib.errors import UserError, note
from elucid.dnnlib.reading import limits
from elucid.training.data.archives import FileSet, FolderFiles
from elucid.training.data.pictures import is_picture

SUFFIX = ".parquet"
LABELS = ("label", "labels", "fine_label", "class")
LEAST = 20
"""Bytes that a picture has at least."""
GROUPS = 2
"""Groups of rows that are kept in memory: one that is being read, and one before it for threads that are late."""


class ParquetFiles(FileSet):
    """The pictures of parquet files, in order of files and rows, and a `dataset.json` made from the column of labels.

    Pictures are a column of bytes, or of structs with a field `bytes`, as the hub's `Image` is. Reading one reads its
    group of rows, so that other orders than the files' are slow; the disk cache, `cache`=disk, reads in order.
    """

    def __init__(self, paths: Sequence[Path], path: Path):
        self.path, self.name = str(path), path.stem
        self._paths = [str(one) for one in paths]
        self._open()
        with _failures(self.path):
            schema = self._files[0].schema_arrow
            self._column, self._nested = _picture_column(schema, self.path)
            label = next((name for name in LABELS if name in schema.names), None)
            groups = [
                (number, group, file.metadata.row_group(group).num_rows)
                for number, file in enumerate(self._files)
                for group in range(file.num_row_groups)
            ]
            self._groups = [(number, group) for number, group, _ in groups]
            self._starts = np.cumsum([0, *(count for _, _, count in groups)])
            rows, size = int(self._starts[-1]), sum(map(os.path.getsize, self._paths))
            limits.ENTRIES.require(rows, f"{self.path}: the number of its rows")
            if rows * LEAST > size + limits.SMALL:  # before anything is made for each
                raise UserError(f"{self.path} has {rows} rows in {size} bytes, too few for pictures; download it again")
            labels = None if label is None else self._label_values(label)
            class_names = None if label is None else _class_names(schema, label)
        suffix = ".jpg" if rows and self._cell(0)[:2] == b"\xff\xd8" else ".png"
        names = [f"{row:09d}{suffix}" for row in range(rows)]
        pairs = None if labels is None else [list(pair) for pair in zip(names, labels, strict=True)]
        self._json = json.dumps({"labels": pairs, "class_names": class_names if pairs else None}).encode()
        self.names = [*names, "dataset.json"]

    def read(self, index: int, limit: int | None = None) -> bytes:
        content = self._json if index == len(self.names) - 1 else self._cell(index)
        limits.FILE_BYTES.require(len(content) if limit is None else 0, f"{self.label_of(index)}: its size")
        return content[:limit]

    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for path in self._paths:
            status = os.stat(path)
            digest.update(os.fsencode(f"\n{os.path.abspath(path)}:{status.st_size}:{status.st_mtime_ns}"))
        return digest.hexdigest()

    def _cell(self, row: int) -> bytes:
        place = int(np.searchsorted(self._starts, row, side="right")) - 1
        with self._lock, _failures(self.path):
            if place not in self._kept:
                self._kept[place] = self._read_group(*self._groups[place])
                while len(self._kept) > GROUPS:
                    self._kept.popitem(last=False)
            cell = self._kept[place][row - int(self._starts[place])].as_py()
        if not isinstance(cell, bytes):
            raise UserError(f"{self.path}: row {row} has no picture in its column {self._column!r}; remove the row")
        return cell

    def _read_group(self, number: int, group: int):
        """Return the pictures of a group of rows as an array of bytes. Raises UserError if they are absurdly many."""
        file, about = self._files[number], self._files[number].metadata.row_group(group)
        sizes = [about.column(index) for index in range(about.num_columns)]
        sizes = [one for one in sizes if one.path_in_schema.split(".")[0] == self._column]
        size, compressed = (
            sum(getattr(one, f"total_{kind}_size") for one in sizes) for kind in ("uncompressed", "compressed")
        )
        where = f"{self._paths[number]}: group {group} of its rows"
        limits.ARRAY_BYTES.require(size, f"{where}: its size")
        limits.require_ratio(size, compressed, where)
        wanted = f"{self._column}.{self._nested}" if self._nested else self._column
        column = file.read_row_group(group, columns=[wanted]).column(0).combine_chunks()
        return column.field(self._nested) if self._nested else column

    def _label_values(self, label: str) -> list:
        import pyarrow

        found = []
        for path, file in zip(self._paths, self._files, strict=True):
            values = file.read(columns=[label]).column(0)
            if not pyarrow.types.is_integer(values.type):
                raise UserError(f"{path}: its column {label!r} has {values.type}, not class numbers; convert it")
            found += values.to_pylist()
        # The hub marks a missing label by -1.
        return [None if one is None or one < 0 else one for one in found]

    def _open(self) -> None:
        try:
            import pyarrow.parquet
        except ImportError as error:
            raise UserError(
                f"{self.path} is parquet, for which pyarrow is not installed: pip install 'elucid[parquet]'"
            ) from error
        with _failures(self.path):
            self._files = [pyarrow.parquet.ParquetFile(path, pre_buffer=False) for path in self._paths]
        self._kept: OrderedDict = OrderedDict()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key not in ("_files", "_kept", "_lock")}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._open()


def tables_in(files: FolderFiles) -> FileSet:
    """Return the parquet files of a folder that has no pictures, only those for training if they say so; else `files`.

    A note tells how many are left out.
    """
    tables = [name for name in files.names if name.endswith(SUFFIX)]
    if not tables or any(map(is_picture, files.names)):
        return files
    chosen = [name for name in tables if re.search(r"(?:^|[/_-])train", name)] or tables
    if len(chosen) < len(tables):
        note(f"{files.path}: read {len(chosen)} parquet files for training, of {len(tables)}; to read another, name it")
    folder = Path(files.path)
    return ParquetFiles([folder / name for name in chosen], folder)


def _picture_column(schema, where: str) -> tuple[str, str]:
    """Return the name of the first column of pictures, and of its field of bytes, or "". Raises UserError."""
    import pyarrow

    def is_bytes(kind) -> bool:
        return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)

    for field in schema:
        if is_bytes(field.type):
            return field.name, ""
        if pyarrow.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
            if is_bytes(field.type.field("bytes").type):
                return field.name, "bytes"
    raise UserError(f"{where} has no column of pictures, only {', '.join(schema.names[:8])}; give pictures or a zip")


def _class_names(schema, label: str) -> list[str] | None:
    """Return the names of the classes from the description that the hub's library writes; None if there is none."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    good = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
    return names if good else None


@contextmanager
def _failures(where: str) -> Iterator[None]:
    """Turn the library's errors into UserError of one line."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, MemoryError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{where} is not readable parquet: {reason}; download it again") from error
