"""A storage of torch.distributed.checkpoint without pickles: numbers in one file per process, the rest as JSON.

`tensors.json` has for each tensor its type, shape and chunks, a list each: number of the file, byte where it begins in
it, CRC-32, where it begins in the tensor, its shape.
"""

import json
import math
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.distributed.checkpoint import StorageReader, StorageWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import checksums
from elucid.dnnlib.reading.json_text import parse_json
from elucid.torch_utils import distributed

INDEX, PART = "tensors.json", "part-{:05d}.bin"
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.uint8,
                  torch.bool)
}  # fmt: skip


@dataclass(frozen=True)
class Chunk:
    """A box of a tensor: number of its file, where it begins there, CRC-32, where it begins in the tensor, shape."""

    file: int
    begin: int
    crc32: int
    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, folder: Path) -> Tensor:
        """Read the chunk. Raises UserError if its checksum does not fit."""
        name = PART.format(self.file)
        with open(folder / name, "rb") as file:
            file.seek(self.begin)
            data = bytearray(file.read(self.size))
        if zlib.crc32(data) != self.crc32:
            raise damaged(folder, f"the checksum of {name} does not fit")
        return torch.from_numpy(np.frombuffer(data, np.uint8)).view(self.dtype).reshape(self.shape)


@dataclass(frozen=True)
class Stored:
    """A tensor in a folder of parts."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    chunks: list[Chunk]


class PartsWriter(StorageWriter):
    """Writes the tensors of a state into a folder; each process writes a file, the main one at last the index.

    `begin(main)` is called on all processes before any writes, `end()` on the main one when all have written. Only
    tensors can be written.
    """

    def __init__(self, folder: Path, begin: Callable[[bool], None], end: Callable[[], None]):
        self.folder, self.begin, self.end = folder, begin, end

    def reset(self, checkpoint_id=None) -> None:
        pass

    def set_up_storage_writer(self, is_coordinator: bool, *args, **kwargs) -> None:
        self.begin(is_coordinator)

    def prepare_local_plan(self, plan):
        return plan

    def prepare_global_plan(self, plans):
        return plans

    def write_data(self, plan, planner) -> Future:
        """Write the parts of this process, one after the other, and note where each is, and its CRC-32."""
        results, number = [], distributed.rank()
        if plan.items:
            with open(self.folder / PART.format(number), "wb") as file:
                for item in plan.items:
                    tensor = planner.resolve_data(item).detach().cpu().contiguous()
                    data = tensor.reshape(-1).view(torch.uint8).numpy()
                    place = [number, file.tell(), zlib.crc32(data), list(tensor.shape)]
                    file.write(data)
                    results.append(WriteResult(item.index, data.nbytes, place))
                file.flush()
                os.fsync(file.fileno())
        return _done(results)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        chunks: dict[str, list] = {name: [] for name in metadata.state_dict_metadata}
        for one in (one for own in results for one in own):
            file, begin, crc32, shape = one.storage_data
            if math.prod(shape):
                offsets = one.index.offset or [0] * len(shape)
                chunks[one.index.fqn].append([file, begin, crc32, *offsets, *shape])
        index = {
            name: [str(one.properties.dtype).removeprefix("torch."), list(one.size), chunks[name]]
            for name, one in metadata.state_dict_metadata.items()
        }
        with open(self.folder / INDEX, "wb") as file:
            file.write(json.dumps(index, separators=(",", ":")).encode())
            checksums.seal(file)
            file.flush()
            os.fsync(file.fileno())
        self.end()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id) -> bool:
        return False


class PartsReader(StorageReader):
    """Reads what `PartsWriter` has written, for any number of processes; nothing in the files is executed."""

    def __init__(self, folder: Path, index: dict[str, Stored]):
        self.folder, self.index = folder, index

    def reset(self, checkpoint_id=None) -> None:
        pass

    def read_metadata(self, *args, **kwargs) -> Metadata:
        tensors, places = {}, {}
        for name, one in self.index.items():
            boxes = [ChunkStorageMetadata(torch.Size(c.offsets), torch.Size(c.shape)) for c in one.chunks]
            tensors[name] = TensorStorageMetadata(TensorProperties(one.dtype), torch.Size(one.shape), boxes)
            places |= {MetadataIndex(name, c.offsets): c for c in one.chunks}
        return Metadata(tensors, storage_data=places)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args, **kwargs) -> None:
        self.places = metadata.storage_data

    def prepare_local_plan(self, plan):
        return plan

    def prepare_global_plan(self, plans):
        return plans

    def read_data(self, plan, planner) -> Future:
        for item in plan.items:
            tensor = self.places[item.storage_index].read(self.folder)
            for dimension, (start, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                tensor = tensor.narrow(dimension, start, length)
            target = planner.resolve_tensor(item).detach()
            target.copy_(tensor)
            planner.commit_tensor(item, target)
        return _done(None)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id) -> bool:
        return False


def _done(value) -> Future:
    done: Future = Future()
    done.set_result(value)
    return done


def read_index(folder: Path) -> dict[str, Stored]:
    """Read the index of a folder of parts. Raises UserError unless it is well-formed and all its files are there."""
    try:
        text, _ = checksums.content((folder / INDEX).read_bytes(), folder / INDEX)
        content = parse_json(text, str(folder / INDEX))
        files = {path.name: path.stat().st_size for path in folder.glob("part-*.bin") if path.is_file()}
    except OSError as error:
        raise damaged(folder, f"{INDEX} cannot be read: {error.strerror or error}") from error
    try:
        index = {name: _stored(*one) for name, one in content.items()}
        whole = all(_is_whole(one, files) for one in index.values())
    except (AttributeError, LookupError, TypeError, ValueError):
        whole = False
    if not whole:
        raise damaged(folder, f"{INDEX} does not fit its files")
    return index


def verify_parts(folder: Path, index: dict[str, Stored], share: int = 0, of: int = 1) -> None:
    """Check the checksums of a share of the files, one in `of`. Raises UserError if one does not fit."""
    chunks = [chunk for one in index.values() for chunk in one.chunks if chunk.file % of == share]
    for chunk in sorted(chunks, key=lambda one: (one.file, one.begin)):
        chunk.read(folder)


def damaged(folder: Path, why: str) -> UserError:
    return UserError(f"{folder} is damaged: {why}; resume from an older state")


def _stored(dtype: str, shape: list, chunks: list) -> Stored:
    """Convert a tensor of the index. Raises ValueError and others for what is none."""
    numbers = [*shape, *(number for chunk in chunks for number in chunk)]
    if not all(type(one) is int and 0 <= one < 1 << 62 for one in numbers) or len(shape) > 16:
        raise ValueError("not a count")
    sides, kind = len(shape), DTYPES[dtype]

    def boxes() -> Iterator[Chunk]:
        for file, begin, crc32, *box in chunks:
            if len(box) != 2 * sides:
                raise ValueError("another number of dimensions")
            yield Chunk(file, begin, crc32, tuple(box[:sides]), tuple(box[sides:]), kind)

    return Stored(kind, tuple(shape), list(boxes()))


def _is_whole(tensor: Stored, files: dict[str, int]) -> bool:
    """Return whether the chunks have as many numbers as the tensor, and all lie in it and in their files."""
    return sum(math.prod(one.shape) for one in tensor.chunks) == math.prod(tensor.shape) and all(
        one.begin + one.size <= files[PART.format(one.file)]
        and all(begin + side <= most for begin, side, most in zip(one.offsets, one.shape, tensor.shape, strict=True))
        for one in tensor.chunks
    )
