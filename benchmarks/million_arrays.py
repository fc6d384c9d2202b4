"""How long a million small arrays take to open and to read, by format, and what they take of the memory.

    python -m benchmarks.million_arrays --num=1000000 --out=OUT

It writes [2,8,8] of 16 bits under OUT, in each format in turn: HDF5 as it is and in compressed chunks, Zarr in shards,
a `.npy`, and TIFFs in a zip. Each is opened twice, in processes of their own, for a large zip gets an index the first
time; the second one reads 10,000 samples in random order, from files that the system has in memory, in batches of 500
where the reader has them. Times are of the clock, with those of the processor in parentheses. OUT is removed.
"""

import io
import json
import os
import shutil
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from benchmarks.many_images import ENTRY, LOCAL, digits
from elucid.dnnlib import cli
from elucid.dnnlib.progress import progress_bar

SHAPE = (2, 8, 8)
AT_ONCE = 1 << 16
CHUNK = 64
"""Samples of 256 bytes in a chunk of 16 KiB."""
READS = 10_000
NAME = "00000/img00000000.tif"

OPEN = """
import sys, time
import numpy as np
from benchmarks.million_arrays import sample
from elucid.training.data.dataset import open_dataset
def most():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
def now():
    return np.array([time.perf_counter(), time.process_time()])
import elucid.training.data.arrays.tables, h5py, zarr, tifffile
before = most()
began = now()
dataset = open_dataset(sys.argv[1], arrays=True)
opened = now()
order = np.random.default_rng(0).integers(0, len(dataset), int(sys.argv[2])).tolist()
first = now()
batches = getattr(dataset, "read", None)
for start in range(0, len(order), 500):
    if batches is not None:
        batches(np.array(order[start : start + 500]))
    else:
        [dataset.image(index) for index in order[start : start + 500]]
read = now()
for index in order[:200]:
    assert (dataset.image(index) == sample(np.array([index]))[0]).all()
print(len(dataset), *(opened - began), *(read - first), before, most())
"""
"""Opens a dataset and reads; prints samples, seconds of both by clock and processor, the most MiB before and after."""


def sample(indices: np.ndarray) -> np.ndarray:
    """Return the samples u16[N,2,8,8] of these numbers: a level, and noise of 6 bits that differs between samples."""
    pixels = np.arange(np.prod(SHAPE), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (indices.astype(np.uint64)[:, None] + np.uint64(1)) * (pixels + np.uint64(0x632BE59BD9B4E019))
    noise = (mixed >> np.uint64(40)) % np.uint64(64)
    return (indices[:, None] % 4096 + noise.astype(np.int64)).astype("<u2").reshape(-1, *SHAPE)


def blocks(num: int, what: str) -> Iterator[tuple[int, int, np.ndarray]]:
    """Yield the first, the end, and the samples of blocks."""
    for first in progress_bar(range(0, num, AT_ONCE), desc=f"writing {what}", unit="block", delay=2, leave=False):
        end = min(first + AT_ONCE, num)
        yield first, end, sample(np.arange(first, end))


def write_hdf5(path: Path, num: int, **options) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        stored = file.create_dataset("fields", (num, *SHAPE), "<u2", **options)
        for first, end, values in blocks(num, path.name):
            stored[first:end] = values


def write_packed(path: Path, num: int) -> None:
    write_hdf5(path, num, chunks=(CHUNK, *SHAPE), compression="gzip", compression_opts=1)


def write_zarr(path: Path, num: int) -> None:
    import zarr

    chunk, shard = (CHUNK, *SHAPE), (AT_ONCE, *SHAPE)
    stored = zarr.create_array(path, name="fields", shape=(num, *SHAPE), chunks=chunk, shards=shard, dtype="<u2")
    for first, end, values in blocks(num, path.name):
        stored[first:end] = values


def write_npy(path: Path, num: int) -> None:
    stored = np.lib.format.open_memmap(path, "w+", "<u2", (num, *SHAPE))
    for first, end, values in blocks(num, path.name):
        stored[first:end] = values


def write_tiffs(path: Path, num: int) -> None:
    """Write the TIFFs of a zip as one that tifffile made, with the pixels replaced; stored, in blocks."""
    import tifffile

    buffer, marks = io.BytesIO(), np.arange(1, 1 + np.prod(SHAPE), dtype="<u2").reshape(SHAPE)
    tifffile.imwrite(buffer, marks, photometric="minisblack", metadata=None, software=False)
    tiff = buffer.getvalue()
    places = [tiff.index(plane.tobytes()) for plane in marks]
    entry, places_of = np.frombuffer(NAME.encode(), np.uint8), []
    with open(path, "wb") as file:
        for first, end, values in blocks(num, path.name):
            files = np.tile(np.frombuffer(tiff, np.uint8), (end - first, 1))
            for plane, place in enumerate(places):
                pixels = values[:, plane].reshape(end - first, -1).view(np.uint8)
                files[:, place : place + pixels.shape[1]] = pixels
            sums = np.array([zlib.crc32(one) for one in files], "<u4")
            names = np.tile(entry, (end - first, 1))
            names[:, :5], names[:, 9:17] = digits(np.arange(first, end) // 1000, 5), digits(np.arange(first, end), 8)
            local = LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, 33, 0, len(tiff), len(tiff), len(NAME), 0)
            heads = np.tile(np.frombuffer(local, np.uint8), (end - first, 1))
            heads[:, 14:18] = sums.view(np.uint8).reshape(-1, 4)
            file.write(np.concatenate([heads, names, files], axis=1).data)
            places_of.append((names, sums))
        start, step, done = file.tell(), LOCAL.size + len(NAME) + len(tiff), 0
        for names, sums in places_of:
            said = ENTRY.pack(b"PK\1\2", 788, 20, 0, 0, 0, 33, 0, len(tiff), len(tiff), len(NAME), 0, 0, 0, 0, 0, 0)
            rows = np.tile(np.frombuffer(said, np.uint8), (len(sums), 1))
            rows[:, 16:20] = sums.view(np.uint8).reshape(-1, 4)
            offsets = (np.arange(done, done + len(sums)) * step).astype("<u4")
            rows[:, 42:46] = offsets.view(np.uint8).reshape(-1, 4)
            file.write(np.concatenate([rows, names], axis=1).data)
            done += len(sums)
        end = file.tell()
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, num, num, end - start, start))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, end, 1))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))


FORMATS = {
    "HDF5, contiguous": ("plain.h5", write_hdf5),
    f"HDF5, gzip, {CHUNK} in a chunk": ("packed.h5", write_packed),
    f"Zarr, zstd, {CHUNK} in a chunk, {AT_ONCE} in a shard": ("fields.zarr", write_zarr),
    ".npy": ("fields.npy", write_npy),
    "TIFFs in a zip": ("tiffs.zip", write_tiffs),
}


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def opened(path: Path, cache: Path, reads: int) -> list[float]:
    """Open the dataset in a new process; returns what OPEN prints."""
    environment = {**os.environ, "ELUCID_CACHE": str(cache), "ELUCID_CACHE_GB": "50"}
    command = [sys.executable, "-c", OPEN, str(path), str(reads)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return [*map(float, done.stdout.split())]


def shown(wall: float, cpu: float) -> str:
    return f"{wall:.2f} ({cpu:.2f})"


@click.command()
@click.option("--num", type=cli.Count(), default=1_000_000, show_default=True, help="Arrays.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="A new folder.")
@click.option("--only", default="", metavar="TEXT", help="Only the formats whose names contain TEXT.")
@click.option("--json", "as_json", is_flag=True, help="Print one object a line.")
def main(num: int, out: Path, only: str, as_json: bool) -> None:
    """Measure and print."""
    out.mkdir(parents=True)
    try:
        for name, (file, write) in ((name, one) for name, one in FORMATS.items() if only in name):
            path = out / file
            began = time.perf_counter()
            write(path, num)
            row = {"format": name, "arrays": num, "MB": size_of(path) / 1e6, "write s": time.perf_counter() - began}
            count, wall, cpu, _, _, _, row["first peak MiB"] = opened(path, out / "cache", 0)
            assert count == num
            row["open first s"] = shown(wall, cpu)
            _, wall, cpu, reading, read_cpu, row["before MiB"], row["peak MiB"] = opened(path, out / "cache", READS)
            row |= {"open s": shown(wall, cpu), f"{READS} reads s": shown(reading, read_cpu)}
            words = (
                f"{key} {value:,.0f}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
            print(json.dumps(row) if as_json else ", ".join(words), flush=True)
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        shutil.rmtree(out, ignore_errors=True)


if __name__ == "__main__":
    cli.run(main)
