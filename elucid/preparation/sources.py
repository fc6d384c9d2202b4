"""Where pictures come from: folders, zips, LSUN databases, and arrays; each is a list of pictures with labels."""

from abc import ABC, abstractmethod
from pathlib import Path

from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.preparation import arrays
from elucid.preparation.images import is_gray
from elucid.training.data.archives import FileSet, open_files
from elucid.training.data.folders import find_labels
from elucid.training.data.labels import Labels
from elucid.training.data.pictures import is_picture, load_picture, open_picture

_SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation"}


class Source(ABC):
    """Pictures in a fixed order. It is sent to worker processes, so it holds paths rather than open files."""

    name: str
    labels: Labels | None = None
    notes: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def picture_name(self, index: int) -> str:
        """How messages call the picture."""

    @abstractmethod
    def picture(self, index: int) -> Image.Image:
        """The decoded picture, upright, in any mode. Raises UserError naming it when it is corrupt."""

    @abstractmethod
    def is_gray(self, index: int) -> bool:
        """Whether its header says that it has no colour."""


class EncodedSource(Source):
    """Pictures that are stored as image files, wherever these lie."""

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """The image file."""

    def picture(self, index: int) -> Image.Image:
        return load_picture(self.encoded(index), self.picture_name(index))

    def is_gray(self, index: int) -> bool:
        return is_gray(open_picture(self.encoded(index), self.picture_name(index)))


class FileSource(EncodedSource):
    """The image files of a folder or zip. Labels come from its `dataset.json`, else from the top-level folders."""

    def __init__(self, files: FileSet):
        self._files, self.name = files, files.name
        self._where = [i for i, name in enumerate(files.names) if is_picture(name)]
        if not self._where:
            raise UserError(f"{files.path} holds no pictures; check the path")
        found = find_labels(files, [files.names[i] for i in self._where])
        self.labels = found.labels
        self.notes = tuple(self._notes(files, found.inside, found.described))

    def _notes(self, files: FileSet, inside: str, described: bool):
        if inside:
            yield f"all pictures lie in {inside}, so labels are looked for there"
        if ignored := len(files) - len(self) - described:
            yield f"{ignored} files that are no pictures were ignored"
        tops = [] if described or self.labels is None else self.labels.class_names or []
        if tops and all(name.lower() in _SPLITS for name in tops):
            part = max(tops, key=lambda name: name.lower().startswith("train"))
            yield f"the classes are {', '.join(tops)}; for one part alone give --source={files.path}/{inside}{part}"

    def __len__(self) -> int:
        return len(self._where)

    def picture_name(self, index: int) -> str:
        return self._files.label_of(self._where[index])

    def encoded(self, index: int) -> bytes:
        return self._files.read(self._where[index])


class LmdbSource(EncodedSource):
    """The image files of a database as LSUN publishes it (`bedroom_train_lmdb`), in the order of their keys."""

    def __init__(self, path: Path):
        self._path, self._database = str(path), None
        self.name = path.resolve().name
        with self._open().begin() as transaction:
            self._keys = list(transaction.cursor().iternext(keys=True, values=False))
        if not self._keys:
            raise UserError(f"{path} holds no pictures; check the path")

    def __len__(self) -> int:
        return len(self._keys)

    def picture_name(self, index: int) -> str:
        return f"{self._path}/{self._keys[index].decode(errors='replace')}"

    def encoded(self, index: int) -> bytes:
        with self._open().begin() as transaction:
            return transaction.get(self._keys[index])

    def _open(self):
        import lmdb

        if self._database is None:
            try:
                self._database = lmdb.open(self._path, readonly=True, lock=False, readahead=False)
            except lmdb.Error as error:
                raise UserError(f"{self._path} is no readable LMDB database: {error}; download it again") from error
        return self._database

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_database": None}


class ArraySource(Source):
    """Pictures that lie decoded in memory."""

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
    """Recognise a source by its name. Raises UserError when it is missing, unreadable or of no known kind."""
    path = Path(source)
    if source.startswith("builtin:"):
        return ArraySource(arrays.builtin(source.removeprefix("builtin:")))
    if (path / "data.mdb").is_file():
        return LmdbSource(path)
    archive = next((part for part in (path, *path.parents) if part.is_file()), path)
    if archive.is_file() and archive.name.endswith((".tar.gz", ".tgz", ".tar")):
        return ArraySource(arrays.cifar(archive, path.relative_to(archive).as_posix().strip(".")))
    if path.is_file() and arrays.is_idx(path):
        return ArraySource(arrays.idx(path))
    if archive.is_file() and archive.suffix.lower() != ".zip":
        raise UserError(
            f"{source} is no known source; give a folder, a .zip, a *_lmdb folder, cifar-10-python.tar.gz, "
            f"cifar-100-python.tar.gz, an idx file such as train-images-idx3-ubyte.gz, or builtin:digits"
        )
    return FileSource(open_files(path))
