"""Reads files written by `torch.save`: data only, and no more of it than the file holds."""

import io
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import limits

_MOST_SHARED = 4  # times that weights may be used more than once


class _Arguments:
    """Stands for the parsed arguments that training scripts store beside weights; they are read and not used."""


class NotData(UserError):
    """Raised for a file that names a callable which is not allowed."""


def load_torch(path: str | os.PathLike) -> Any:
    """Load tensors and plain values onto the CPU with torch's safe loader; no code in the file is run.

    Raises UserError, without the path, for compressed archives, for what is not allowed or damaged, and for tensors
    that are not dense or larger than the file.
    """
    path = Path(path)
    try:
        if path.stat().st_size == 0:
            raise UserError("it is empty; get the file again")
        _require_modest(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickles; what cannot be read is an error
            with torch.serialization.safe_globals([(_Arguments, "argparse.Namespace")]):
                content = torch.load(path, map_location="cpu", weights_only=True)
        _require_dense(content, path.stat().st_size)
        return content
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"names the callable {name[1]}" if name else "is damaged, or holds more than arrays"
        raise NotData(f"it {what}, which is not allowed in such a file; no code was run") from error
    except OSError as error:
        raise UserError(f"it cannot be read: {error.strerror or error}") from error
    except Exception as error:  # noqa: BLE001  torch's readers fail in many ways on damaged files
        reason = re.split(r"[.\n(]", str(error))[0][:200] or type(error).__name__
        raise UserError(f"it is damaged, truncated or no torch file ({reason}); get the file again") from error


def _require_modest(path: Path) -> None:
    """Raise UserError for an archive that torch did not write, and for instructions without end."""
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            file.seek(0)
            for _ in range(5):  # magic number, version, platform, content, and names of storages, then the numbers
                _require_short(file)
            return
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        limits.ITEMS.require(len(entries), "its number of tensors")
        if any(one.compress_type != zipfile.ZIP_STORED or one.flag_bits & 1 for one in entries):
            raise UserError("it is a compressed or encrypted zip, which torch does not write; get the original file")
        if sum(one.file_size for one in entries) > path.stat().st_size:
            raise UserError("its parts are larger than the file; get the file again")
        for entry in entries:
            if entry.filename.endswith("/data.pkl"):
                _require_short(io.BytesIO(archive.read(entry)))


def _require_short(file: IO[bytes]) -> None:
    """Read past one pickle. Raises UserError if it has more instructions than the limit, ValueError if it is cut."""
    most = limits.ITEMS.value
    for count, _ in enumerate(pickletools.genops(file)):
        if count > most:
            raise limits.ITEMS.error(f"it has {count} instructions")


def _require_dense(content: Any, size: int) -> None:
    """Raise UserError unless all tensors are plain, dense and in memory, and no larger than a file of `size` bytes."""
    total = 0
    for tensor in _tensors(content):
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise UserError("it has a tensor that is not a dense one in memory; get the file again")
        extent = tensor.numel() * tensor.element_size()
        total += extent
        if extent > tensor.untyped_storage().nbytes() or total > _MOST_SHARED * size:
            raise UserError("its tensors are larger than the file; get the file again")


def _tensors(content: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested containers. Raises UserError if these are too many or too deep."""
    waiting: list[tuple[Any, int]] = [(content, 0)]
    count = 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if count > limits.ITEMS.value or depth > limits.DEEPEST:
            raise UserError("its content is nested without end; get the file again")
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            waiting.extend((item, depth + 1) for item in value.values())
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting.extend((item, depth + 1) for item in value)
