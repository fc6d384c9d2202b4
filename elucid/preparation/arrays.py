"""Datasets stored as arrays: CIFAR-10 and -100, MNIST-format idx pairs, and the digits of scikit-learn."""

import math
import tarfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.pickled_arrays import load_arrays
from elucid.dnnlib.reading import limits
from elucid.dnnlib.reading.streams import bounded
from elucid.training.data.labels import Labels

DIGITS_TEST_IMAGES = 500
_LARGEST_BATCH = 200 * 10**6  # bytes; CIFAR-100's has 155 million


@dataclass
class Arrays:
    """uint8 `images` [N, H, W] or [N, H, W, 3] and their labels."""

    name: str
    images: np.ndarray
    labels: Labels | None
    notes: tuple[str, ...] = ()


def builtin(name: str) -> Arrays:
    """Load `digits` (1797 handwritten digits, 8x8 enlarged to 16x16), `digits-train` or `digits-test`.

    The two parts, 1297 and 500 images, are disjoint and always the same.
    """
    if name not in ("digits", "digits-train", "digits-test"):
        raise UserError(
            f"builtin:{name} is unknown; there are builtin:digits, builtin:digits-train, builtin:digits-test"
        )
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    images = np.stack([np.asarray(Image.fromarray(x).resize((16, 16), Image.Resampling.BICUBIC)) for x in small])
    order = np.random.RandomState(0).permutation(len(images))
    parts = {"digits-test": order[:DIGITS_TEST_IMAGES], "digits-train": order[DIGITS_TEST_IMAGES:]}
    kept = np.sort(parts.get(name, order))
    class_names = [str(number) for number in digits.target_names]
    return Arrays(name, images[kept], Labels(digits.target[kept].astype(np.int64), class_names))


_CIFAR = {  # keys of labels and class names, by number of classes
    10: ("labels", "label_names", "batches.meta"),
    100: ("fine_labels", "fine_label_names", "meta"),
}


def cifar(path: Path, part: str = "") -> Arrays:
    """Load `cifar-10-python.tar.gz` or `cifar-100-python.tar.gz`: the training images, or those of `part` "test".

    Raises UserError if the archive is damaged or not the Python version.
    """
    if part not in ("", "train", "test"):
        raise UserError(f"{path} has no part {part!r}; there are {path}/train (the default) and {path}/test")
    blobs = _tar_files(path)
    classes = 100 if "meta" in blobs else 10
    label_key, names_key, meta = _CIFAR[classes]
    wanted = "test" if part == "test" else ("train" if classes == 100 else "data_batch_")

    names = [name for name in sorted(blobs) if name.startswith(wanted)]
    if meta not in blobs or not names:
        raise UserError(f"{path} is not the Python version of CIFAR; download cifar-{classes}-python.tar.gz")

    def read(name: str) -> dict:
        content = load_arrays(blobs[name], f"{path}/{name}")
        return {_text(key): value for key, value in content.items()}

    try:
        batches = [read(name) for name in names]
        pixels = np.concatenate([batch["data"] for batch in batches])
        labels = np.concatenate([np.array(batch[label_key], dtype=np.int64) for batch in batches])
        class_names = [_text(name) for name in read(meta)[names_key]]
        images = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError) as error:
        raise UserError(f"{path} does not contain CIFAR's arrays ({error}); download it again") from error
    if not len(labels) or labels.ndim != 1 or len(class_names) != classes:
        raise UserError(f"{path} does not contain CIFAR's arrays; download it again")
    if pixels.dtype != np.uint8 or len(labels) != len(images) or not 0 <= labels.min() <= labels.max() < classes:
        raise UserError(f"{path} does not contain CIFAR's arrays; download it again")
    return Arrays(f"cifar{classes}" + ("-test" if part == "test" else ""), images, Labels(labels, class_names))


def _text(value: str | bytes) -> str:
    """Decode a string that Python 2 wrote as bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _tar_files(path: Path) -> dict[str, bytes]:
    """Read the files of a tar by base name, without unpacking to disk, up to the limit of arrays in all."""
    found: dict[str, bytes] = {}
    try:
        with open(path, "rb") as file, bounded(file, path) as content, tarfile.open(fileobj=content, mode="r|") as tar:
            for member in tar:
                if member.isreg() and not member.issparse():
                    if member.size > _LARGEST_BATCH:
                        raise UserError(f"{path} has a file of {member.size} bytes; CIFAR has none so large")
                    found[PurePosixPath(member.name).name] = tar.extractfile(member).read()
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is not a valid or complete tar archive ({error}); download it again") from error
    return found


def is_idx(path: Path) -> bool:
    """Return whether a file is an MNIST-format array of images."""
    try:
        with open(path, "rb") as file, bounded(file, path) as content:
            return content.read(4) == b"\0\0\x08\x03"
    except (OSError, EOFError, zlib.error):
        return False


def idx_files(folder: Path) -> list[Path]:
    """Return the idx files of images in a folder, sorted; one that is there compressed and not is taken once."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*idx3-ubyte*")):  # a name without .gz comes before that with it
        if path.is_file() and is_idx(path):
            found.setdefault(path.name.removesuffix(".gz"), path)
    return list(found.values())


def idx_training_part(folder: Path, files: list[Path]) -> Arrays:
    """Load the only one of a folder's idx files, or that of the training images. Raises UserError if none is."""
    train = files if len(files) == 1 else [path for path in files if "train" in path.name]
    if len(train) != 1:
        raise UserError(f"{folder} has several parts; give one of them: --source={files[0]}")
    others = [path for path in files if path != train[0]]
    data = idx(train[0])
    kept = tuple(f"only the training images are used; for the others give --source={path}" for path in others)
    return replace(data, notes=data.notes + kept)


def idx(path: Path) -> Arrays:
    """Load an idx file of images and its label file (`images-idx3` -> `labels-idx1`); 28x28 is padded to 32x32."""
    images = _read_idx(path)
    if images.shape[1:] == (28, 28):
        images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    stem = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    beside = [path.with_name(stem + suffix) for suffix in ("", ".gz")]
    found = next((file for file in beside if file.is_file() and file != path), None)
    if found is None:
        return Arrays(
            _idx_name(path), images, None, (f"no label file {stem}[.gz] beside {path}: images have no labels",)
        )
    labels = _read_idx(found)
    if labels.shape != images.shape[:1]:
        raise UserError(f"{found} has {len(labels)} labels, {path.name} has {len(images)} images; download both again")
    return Arrays(_idx_name(path), images, Labels(labels.astype(np.int64)))


def _idx_name(path: Path) -> str:
    return path.name.split(".")[0].removesuffix("-idx3-ubyte")


def _read_idx(path: Path) -> np.ndarray:
    """Read an idx file: two zero bytes, the type code (8 = uint8), the number of axes, their lengths, the values."""
    try:
        with open(path, "rb") as file, bounded(file, path) as content:
            start = content.read(4)
            if start[:3] != b"\0\0\x08" or len(start) < 4 or not 1 <= start[3] <= 3:
                raise UserError(f"{path} is not an idx file of bytes; download it again")
            shape = [int.from_bytes(content.read(4), "big") for _ in range(start[3])]
            size = math.prod(shape)
            limits.ARRAY_BYTES.require(size, f"{path}: the size that it states")
            data = content.read(size)
            more = content.read(1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read ({error}); download it again") from error
    if len(data) != size or more or not size:
        raise UserError(f"{path} holds {len(data)}{'+' if more else ''} values instead of {size}; download it again")
    return np.frombuffer(data, np.uint8).reshape(shape)
