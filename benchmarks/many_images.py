"""How long it takes to open a dataset of very many images, and what it takes of the memory.

    python -m benchmarks.many_images --num=10000000 --out=OUT

It writes a zip of tiny images with class labels under OUT (2.4 GB for ten million), makes its index, opens it in a new
process, and draws a batch. OUT and the index are removed at the end, except with --keep.
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
from pathlib import Path

import click
import numpy as np
from PIL import Image

from elucid.dnnlib import cli

PER_FOLDER, CLASSES, AT_ONCE = 1000, 100, 100_000
NAME = "00000/img00000000.png"
LOCAL = struct.Struct("<4s5H3L2H")
ENTRY = struct.Struct("<4s6H3L5H2L")

OPEN = """
import resource, sys, time
import psutil
from elucid.training.data.dataset import open_dataset
from elucid.training.data.loading.stream import BatchStream
import torch
before = psutil.Process().memory_info()
began = time.perf_counter()
dataset = open_dataset(sys.argv[1], use_labels=True)
opened = time.perf_counter()
after = psutil.Process().memory_info()
stream = BatchStream(dataset, [], torch.device("cpu"), seed=1)
batch = stream.next(256)
first = time.perf_counter()
peak = psutil.Process().memory_info()
stream.close()
assert batch.images.shape[0] == 256 and batch.cond["labels"].sum() == 256
print(len(dataset), opened - began, first - opened, after.rss - before.rss, peak.rss - before.rss,
      (peak.rss - peak.shared) - (before.rss - before.shared),
      resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
"""Opens the dataset and draws a batch; prints images, seconds of both, the growth of the memory, its most."""


def digits(numbers: np.ndarray, width: int) -> np.ndarray:
    """Numbers as ASCII digits u8[N, width]."""
    return (numbers[:, None] // 10 ** np.arange(width - 1, -1, -1) % 10 + 48).astype(np.uint8)


def names_of(indices: np.ndarray) -> np.ndarray:
    """Names like NAME, u8[N, len(NAME)]."""
    names = np.tile(np.frombuffer(NAME.encode(), np.uint8), (len(indices), 1))
    names[:, :5], names[:, 9:17] = digits(indices // PER_FOLDER, 5), digits(indices, 8)
    return names


def write_zip(path: Path, num: int, size: int = 8) -> None:
    """Write `num` copies of a picture, stored, and a `dataset.json`; in blocks, as `zipfile` would take very long."""
    buffer = io.BytesIO()
    Image.fromarray(np.arange(size * size * 3, dtype=np.uint8).reshape(size, size, 3)).save(buffer, "PNG")
    picture = buffer.getvalue()
    crc, length = zlib.crc32(picture), len(picture)
    local = LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, 33, crc, length, length, len(NAME), 0) + NAME.encode() + picture
    entry = ENTRY.pack(b"PK\1\2", 788, 20, 0, 0, 0, 33, crc, length, length, len(NAME), 0, 0, 0, 0, 0x81A40000, 0)
    entry += NAME.encode()
    if num * len(local) >= 0xFFFFFFFF:
        raise SystemExit("the zip would need places of 8 bytes; give a smaller --num")
    with open(path, "wb") as file:
        for first in range(0, num, AT_ONCE):
            indices = np.arange(first, min(first + AT_ONCE, num))
            rows = np.tile(np.frombuffer(local, np.uint8), (len(indices), 1))
            rows[:, 30 : 30 + len(NAME)] = names_of(indices)
            file.write(rows.data)
        place, crc, length = file.tell(), 0, 0
        file.write(bytes(30 + 12))  # filled in below
        for piece in description(num):
            file.write(piece)
            crc, length = zlib.crc32(piece, crc), length + len(piece)
        directory = file.tell()
        for first in range(0, num, AT_ONCE):
            indices = np.arange(first, min(first + AT_ONCE, num))
            rows = np.tile(np.frombuffer(entry, np.uint8), (len(indices), 1))
            rows[:, 42:46] = (indices * len(local)).astype("<u4").view(np.uint8).reshape(-1, 4)
            rows[:, 46:] = names_of(indices)
            file.write(rows.data)
        last = ENTRY.pack(b"PK\1\2", 788, 20, 0, 0, 0, 33, crc, length, length, 12, 0, 0, 0, 0, 0x81A40000, place)
        file.write(last + b"dataset.json")
        end, count = file.tell(), num + 1
        file.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, end - directory, directory))
        file.write(struct.pack("<4sLQL", b"PK\6\7", 0, end, 1))
        file.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))
        file.seek(place)
        file.write(LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, 33, crc, length, length, 12, 0) + b"dataset.json")


def description(num: int):
    """Yield the pieces of a `dataset.json` with a class for each picture."""
    yield b'{"labels": ['
    for first in range(0, num, AT_ONCE):
        indices = range(first, min(first + AT_ONCE, num))
        rows = (f'["{i // PER_FOLDER:05d}/img{i:08d}.png", {i % CLASSES}]' for i in indices)
        yield ((", " if first else "") + ", ".join(rows)).encode()
    yield b"]}"


def opened(path: Path, cache: Path) -> list[float]:
    """Open the dataset in a new process; returns what OPEN prints."""
    environment = {**os.environ, "ELUCID_CACHE": str(cache), "ELUCID_CACHE_GB": "50"}
    done = subprocess.run([sys.executable, "-c", OPEN, str(path)], env=environment, stdout=subprocess.PIPE, check=True)
    return [*map(float, done.stdout.split())]


@click.command()
@click.option("--num", type=cli.Count(), default=10_000_000, show_default=True, help="Images.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="A new folder.")
@click.option("--keep", is_flag=True, help="Keep the zip and its index.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
def main(num: int, out: Path, keep: bool, as_json: bool) -> None:
    """Measure and print."""
    out.mkdir(parents=True)
    try:
        began = time.perf_counter()
        write_zip(out / "many.zip", num)
        found = {"images": num, "zip_mb": (out / "many.zip").stat().st_size / 1e6}
        found["write_sec"] = time.perf_counter() - began
        for name in ("making", "made"):
            count, opening, first, rss, with_batch, private, most = opened(out / "many.zip", out / "cache")
            assert count == num
            found |= {f"{name}_open_sec": opening, f"{name}_first_batch_sec": first}
            found |= {f"{name}_bytes_per_image": rss / num, f"{name}_with_batch_bytes_per_image": with_batch / num}
            found |= {f"{name}_private_bytes_per_image": private / num, f"{name}_peak_memory_mb": most / 1e6}
        index = list((out / "cache/datasets").glob("*.npy"))
        found["index_mb"] = sum(file.stat().st_size for file in index) / 1e6
    finally:
        if not keep:
            shutil.rmtree(out, ignore_errors=True)
    if as_json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:36} {value:14,.2f}")


if __name__ == "__main__":
    cli.run(main)
