"""A storage of torch.distributed.checkpoint without pickles: numbers in one file per process, the rest as JSON."""

import json
import math
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
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
        results = []
        if plan.items:
            name = PART.format(distributed.rank())
            with open(self.folder / name, "wb") as file:
                for item in plan.items:
                    tensor = planner.resolve_data(item).detach().cpu().contiguous()
                    data = tensor.reshape(-1).view(torch.uint8).numpy()
                    place = {"file": name, "offset": file.tell(), "crc32": zlib.crc32(data)}
                    file.write(data)
                    results.append(WriteResult(item.index, data.nbytes, place))
                file.flush()
                os.fsync(file.fileno())
        done: Future = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        places = {(one.index.fqn, tuple(one.index.offset or ())): one.storage_data for own in results for one in own}
        index = {}
        for name, tensor in metadata.state_dict_metadata.items():
            if not isinstance(tensor, TensorStorageMetadata):
                raise TypeError(f"{name} is no tensor")
            dtype = str(tensor.properties.dtype).removeprefix("torch.")
            chunks = [
                {"offsets": list(one.offsets), "sizes": list(one.sizes), **_place(places, name, tuple(one.offsets))}
                for one in tensor.chunks
            ]
            index[name] = {"dtype": dtype, "shape": list(tensor.size), "chunks": chunks}
        with open(self.folder / INDEX, "w+b") as file:
            file.write(json.dumps(index).encode())
            file.flush()
            checksums.seal(file)
            file.flush()
            os.fsync(file.fileno())
        self.end()

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id) -> bool:
        return False


def _place(places: dict, name: str, offsets: tuple) -> dict:
    """Return where a chunk is; that of an ordinary tensor is noted without an offset by some versions of torch."""
    return places[name, offsets] if (name, offsets) in places else places[name, ()]


class PartsReader(StorageReader):
    """Reads what `PartsWriter` has written, for any number of processes; nothing in the files is executed."""

    def __init__(self, folder: Path):
        self.folder, self.index = folder, read_index(folder)
        self.kept: tuple = (None, None)

    def reset(self, checkpoint_id=None) -> None:
        pass

    def read_metadata(self, *args, **kwargs) -> Metadata:
        tensors, places = {}, {}
        for name, one in self.index.items():
            chunks = [ChunkStorageMetadata(torch.Size(c["offsets"]), torch.Size(c["sizes"])) for c in one["chunks"]]
            properties = TensorProperties(DTYPES[one["dtype"]])
            tensors[name] = TensorStorageMetadata(properties, torch.Size(one["shape"]), chunks)
            places |= {MetadataIndex(name, c["offsets"]): (one["dtype"], c) for c in one["chunks"]}
        return Metadata(tensors, storage_data=places)

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args, **kwargs) -> None:
        self.places = metadata.storage_data

    def prepare_local_plan(self, plan):
        return plan

    def prepare_global_plan(self, plans):
        return plans

    def read_data(self, plan, planner) -> Future:
        for item in plan.items:
            dtype, chunk = self.places[item.storage_index]
            tensor = self._chunk(dtype, chunk)
            for dimension, (start, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
                tensor = tensor.narrow(dimension, start, length)
            target = planner.resolve_tensor(item).detach()
            target.copy_(tensor)
            planner.commit_tensor(item, target)
        done: Future = Future()
        done.set_result(None)
        return done

    def _chunk(self, dtype: str, chunk: dict) -> torch.Tensor:
        """Return a chunk, of which one is kept. Raises UserError if its checksum is wrong."""
        key = chunk["file"], chunk["offset"]
        if self.kept[0] != key:
            with open(self.folder / chunk["file"], "rb") as file:
                file.seek(chunk["offset"])
                data = bytearray(file.read(math.prod(chunk["sizes"]) * DTYPES[dtype].itemsize))
            if zlib.crc32(data) != chunk["crc32"]:
                raise damaged(self.folder, f"the checksum of {chunk['file']} does not fit")
            flat = torch.from_numpy(np.frombuffer(data, np.uint8)) if data else torch.empty(0, dtype=torch.uint8)
            self.kept = key, flat.view(DTYPES[dtype]).reshape(chunk["sizes"])
        return self.kept[1]

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id) -> bool:
        return False


def read_index(folder: Path) -> dict:
    """Read the index of a folder of parts. Raises UserError unless it is well-formed and all its files are there."""
    try:
        text, _ = checksums.content((folder / INDEX).read_bytes(), folder / INDEX)
        index = parse_json(text, str(folder / INDEX))
        sizes = {path.name: path.stat().st_size for path in folder.glob("part-*.bin") if path.is_file()}
    except OSError as error:
        raise damaged(folder, f"{INDEX} cannot be read: {error.strerror or error}") from error
    try:
        good = all(type(name) is str and _good_tensor(one, sizes) for name, one in index.items())
    except (AttributeError, KeyError, TypeError, ValueError):
        good = False
    if not good:
        raise damaged(folder, f"{INDEX} does not fit its files")
    return index


def verify_parts(folder: Path, index: dict, share: int = 0, of: int = 1) -> None:
    """Check the checksums of a share of the files, one in `of`. Raises UserError if one does not fit."""
    files = sorted({chunk["file"] for one in index.values() for chunk in one["chunks"]})[share::of]
    for name in files:
        chunks = [(c, DTYPES[one["dtype"]]) for one in index.values() for c in one["chunks"] if c["file"] == name]
        with open(folder / name, "rb") as file:
            for chunk, dtype in sorted(chunks, key=lambda pair: pair[0]["offset"]):
                file.seek(chunk["offset"])
                if zlib.crc32(file.read(math.prod(chunk["sizes"]) * dtype.itemsize)) != chunk["crc32"]:
                    raise damaged(folder, f"the checksum of {name} does not fit")


def damaged(folder: Path, why: str) -> UserError:
    return UserError(f"{folder} is damaged: {why}; resume from an older state")


def _good_tensor(one: dict, files: dict[str, int]) -> bool:
    shape, chunks, size = one["shape"], one["chunks"], DTYPES[one["dtype"]].itemsize
    whole = sum(math.prod(chunk["sizes"]) for chunk in chunks) == math.prod(shape)
    return whole and _counts(shape) and all(_good_chunk(chunk, shape, size, files) for chunk in chunks)


def _good_chunk(chunk: dict, shape: list, size: int, files: dict[str, int]) -> bool:
    offsets, sizes, file = chunk["offsets"], chunk["sizes"], chunk["file"]
    fits = _counts(offsets) and _counts(sizes) and len(offsets) == len(sizes) == len(shape)
    inside = fits and all(start + n <= side for start, n, side in zip(offsets, sizes, shape, strict=True))
    named = re.fullmatch(r"part-\d{5}\.bin", file) is not None and _counts([chunk["offset"], chunk["crc32"]])
    return inside and named and chunk["offset"] + math.prod(sizes) * size <= files[file]


def _counts(values: list) -> bool:
    return type(values) is list and len(values) <= 16 and all(type(one) is int and 0 <= one < 1 << 62 for one in values)
