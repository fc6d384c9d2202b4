"""Sources of labelled images: folders, zips, LSUN databases, and arrays."""

from abc import ABC, abstractmethod
from pathlib import Path

from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import limits
from elucid.dnnlib.remote.hub import hub_data, is_hub
from elucid.preparation import arrays
from elucid.preparation.images import is_gray
from elucid.preparation.lmdb_file import require_whole
from elucid.training.data.archives import FileSet, open_files
from elucid.training.data.folders import find_labels
from elucid.training.data.labels import Labels
from elucid.training.data.pictures import is_picture, load_picture, open_picture

_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}


class Source(ABC):
    """Base class: images in a fixed order. It is sent to worker processes, so it stores paths instead of open files."""

    name: str
    labels: Labels | None = None
    notes: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def picture_name(self, index: int) -> str:
        """Return the name of an image for messages."""

    @abstractmethod
    def picture(self, index: int) -> Image.Image:
        """Decode an image in its EXIF orientation, in any mode. Raises UserError naming it if it is corrupt."""

    @abstractmethod
    def is_gray(self, index: int) -> bool:
        """Return whether an image is gray according to its header."""


class EncodedSource(Source):
    """Base class for images stored as image files."""

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """Return the image file."""

    def picture(self, index: int) -> Image.Image:
        return load_picture(self.encoded(index), self.picture_name(index))

    def is_gray(self, index: int) -> bool:
        return is_gray(open_picture(self.encoded(index), self.picture_name(index)))


class FileSource(EncodedSource):
    """Image files of a folder or zip. Labels come from its `dataset.json`, or else from the top-level folders."""

    def __init__(self, files: FileSet):
        self._files, self.name = files, files.name
        self._where = [i for i, name in enumerate(files.names) if is_picture(name)]
        if not self._where:
            raise UserError(f"{files.path} contains no images; check the path")
        found = find_labels(files, [files.names[i] for i in self._where])
        self.labels = found.labels
        self.notes = tuple(self._notes(files, found.root, found.has_json))

    def _notes(self, files: FileSet, root: str, has_json: bool):
        if root:
            yield f"all images are in {root}, which is used as the root for labels"
        if ignored := len(files) - len(self) - has_json:
            yield f"{ignored} files that are not images were ignored"
        tops = [] if has_json or self.labels is None else self.labels.class_names or []
        if tops and all(name.lower() in _SPLITS for name in tops):
            part = max(tops, key=lambda name: name.lower().startswith("train"))
            yield f"the classes are {', '.join(tops)}; to use only one part, give --source={files.path}/{root}{part}"

    def __len__(self) -> int:
        return len(self._where)

    def picture_name(self, index: int) -> str:
        return self._files.label_of(self._where[index])

    def encoded(self, index: int) -> bytes:
        return self._files.read(self._where[index])


class LmdbSource(EncodedSource):
    """Image files of an LSUN database (`bedroom_train_lmdb`), in the order of their keys."""

    def __init__(self, path: Path):
        self._path, self._database = str(path), None
        self.name = path.resolve().name
        require_whole(path)
        with self._open().begin() as transaction:
            self._keys = list(transaction.cursor().iternext(keys=True, values=False))
        if not self._keys:
            raise UserError(f"{path} contains no images; check the path")

    def __len__(self) -> int:
        return len(self._keys)

    def picture_name(self, index: int) -> str:
        return f"{self._path}/{self._keys[index].decode(errors='replace')}"

    def encoded(self, index: int) -> bytes:
        with self._open().begin(buffers=True) as transaction:
            value = transaction.get(self._keys[index])
            limits.FILE_BYTES.require(len(value), f"{self.picture_name(index)}: its size")
            return bytes(value)

    def _open(self):
        import lmdb

        if self._database is None:
            try:
                self._database = lmdb.open(self._path, readonly=True, lock=False, readahead=False)
            except lmdb.Error as error:
                raise UserError(f"{self._path} is not a readable LMDB database: {error}; download it again") from error
        return self._database

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_database": None}


class ArraySource(Source):
    """Decoded images in memory."""

    def __init__(self, data: arrays.Arrays):
        self._images, self.name, self.labels, self.notes = data.images, data.name, data.labels, data.notes

    def __len__(self) -> int:
        return len(self._images)

    def picture_name(self, index: int) -> str:
        return f"{self.name}[{index}]"

    def picture(self, index: int) -> Image.Image:
        return Image.fromarray(self._images[index])

    def is_gray(self, index: int) -> bool:
        return self._images.ndim == 3


def open_source(source: str) -> Source:
    """Open a source by its name. Raises UserError if it is missing, unreadable or of unknown type."""
    if source.startswith("builtin:"):
        return ArraySource(arrays.builtin(source.removeprefix("builtin:")))
    path = hub_data(source) if is_hub(source) else Path(source)
    if (path / "data.mdb").is_file():
        return LmdbSource(path)
    archive = next((part for part in (path, *path.parents) if part.is_file()), path)
    if archive.is_file() and archive.name.endswith((".tar.gz", ".tgz", ".tar")):
        return ArraySource(arrays.cifar(archive, path.relative_to(archive).as_posix().strip(".")))
    if path.is_file() and arrays.is_idx(path):
        return ArraySource(arrays.idx(path))
    if path.is_dir() and (files := arrays.idx_files(path)):
        return ArraySource(arrays.idx_training_part(path, files))
    if archive.is_file() and archive.suffix.lower() not in (".zip", ".parquet"):
        raise UserError(
            f"{source} is not a known source; give a folder, a .zip, .parquet, a *_lmdb folder, "
            f"cifar-10-python.tar.gz, cifar-100-python.tar.gz, an idx file such as train-images-idx3-ubyte.gz, "
            f"or builtin:digits"
        )
    return FileSource(open_files(path))
