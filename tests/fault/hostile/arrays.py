"""Hostile references, arrays of the classic data sets, LMDB databases and stored latents."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np

from elucid.dnnlib.reading import checksums
from elucid.training.data.npy import to_npy
from tests.fault.hostile.kit import EVERY, Case, Kit
from tests.fault.test_hostile_pickles import Call, attacks


def cases(kit: Kit) -> Iterator[Case]:
    yield from references(kit)
    yield from sources(kit)
    yield from databases(kit)
    yield from latents(kit)


def references(kit: Kit) -> Iterator[Case]:
    yield from kit.damaged("reference", kit.reference, cuts=8, flips=15)
    with np.load(kit.reference) as whole:
        good = dict(whole)
    dim = len(good["mu"])
    nan = np.full(dim, np.nan)
    bad = {
        "mu": [nan, np.zeros(dim + 1), np.zeros((dim, 1)), np.array("text"), np.zeros(dim, "i8"), np.zeros(0)],
        "sigma": [np.full((dim, dim), np.inf), np.zeros(dim), np.zeros((dim, dim), bool), np.zeros((0, 0))],
        "num_images": [np.array("many"), np.int64(-1), np.zeros(3), np.float64(np.nan), np.float64(1e300)],
        "detector": [np.array("\x1b[31m" * 20), np.zeros(2), np.array("x" * 100_000), np.array(["a", "b"])],
        "detector_sha256": [np.array("0" * 64), np.zeros(1)],
    }
    for key, values in bad.items():
        for number, value in enumerate(values):
            yield kit.write("reference", f"{key}-{number}", npz({**good, key: value}), ".npz")
    for key in ("mu", "sigma"):
        yield kit.write("reference", f"no-{key}", npz({k: v for k, v in good.items() if k != key}), ".npz")
    canary, _ = attacks(kit.canary)["system"]
    objects = np.array([canary], dtype=object)
    yield kit.write("reference", "objects", npz({**good, "mu": objects}), ".npz")
    yield kit.write("reference", "objects-elsewhere", npz({**good, "more": objects}), ".npz", accepted=EVERY)
    yield kit.write("reference", "pickle", pickle.dumps(canary), ".npz")
    bomb = npy_header("<f8", (12000, 12000)) + bytes(12000 * 12000 * 8)
    yield kit.write("reference", "bomb", zipped({"mu.npy": bomb, "sigma.npy": bomb}, zipfile.ZIP_DEFLATED), ".npz")
    for name, header in {
        "huge-shape": npy_header("<f8", (1 << 50,)),
        "negative-shape": npy_header("<f8", (-1,)),
        "wide-text": npy_header("<U500000000", ()),
        "code-header": b"\x93NUMPY\x01\x00" + struct.pack("<H", 40) + b"__import__('os').system('true')".ljust(40),
        "long-header": b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30) + b"{" * 1000,
        "no-header": b"\x93NUMPY",
    }.items():
        yield kit.write("reference", name, zipped({"mu.npy": header, "sigma.npy": header}), ".npz")
    many = zipped({f"{i}.npy": b"" for i in range(20_000)})
    yield kit.write("reference", "many", many, ".npz")
    yield kit.write("reference", "empty", b"", ".npz")
    yield kit.write("reference", "text", b"not a zip\n", ".npz")


def npz(arrays: dict) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def npy_header(dtype: str, shape: tuple) -> bytes:
    text = str({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def idx(shape: tuple, data: bytes, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + b"".join(struct.pack(">I", side) for side in shape) + data


def sources(kit: Kit) -> Iterator[Case]:
    pixels = bytes(16 * 16 * 3)
    for name, data in {
        "idx-short": idx((3, 16, 16), pixels[:-1]),
        "idx-long": idx((3, 16, 16), pixels + b"x"),
        "idx-huge": idx((1 << 31, 1 << 31, 1 << 31), pixels),
        "idx-none": idx((0, 16, 16), b""),
        "idx-zero": idx((3, 0, 16), b""),
        "idx-cut": idx((3, 16, 16), b"")[:7],
        "idx-floats": idx((3, 16, 16), pixels, kind=13),
        "idx-labels": idx((3,), b"abc"),
    }.items():
        yield kit.write("source", name, data, "-images-idx3-ubyte")
        yield kit.write("source", name, gzip.compress(data), "-images-idx3-ubyte.gz")
    zeros = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = zeros.compress(idx((2_000_000, 28, 28), b""))
    bomb += b"".join(zeros.compress(bytes(10_000_000)) for _ in range(157)) + zeros.flush()
    yield kit.write("source", "idx-bomb", bomb, "-images-idx3-ubyte.gz")
    yield kit.write("source", "gzip-cut", gzip.compress(idx((3, 16, 16), pixels))[:-12], "-images-idx3-ubyte.gz")
    meta = pickle.dumps({"label_names": [str(i) for i in range(10)]})
    good = {"data": np.zeros((10, 3072), np.uint8), "labels": list(range(10))}
    call, _ = attacks(kit.canary)["system"]
    for number, batch in enumerate(
        [
            pickle.dumps({**good, "labels": call}),
            pickle.dumps({**good, "labels": ["a"] * 10}),
            pickle.dumps({**good, "labels": [10**400] * 10}),
            pickle.dumps({**good, "labels": []}),
            pickle.dumps({**good, "labels": [99] * 10}),
            pickle.dumps({**good, "data": np.zeros((10, 3071), np.uint8)}),
            pickle.dumps({**good, "data": np.zeros((10, 3072), np.float64)}),
            pickle.dumps({**good, "data": np.array([None] * 10, dtype=object)}),
            pickle.dumps({"data": Call(np.zeros, 10**12), "labels": []}),
            pickle.dumps([1, 2]),
            pickle.dumps(good)[:-100],
            b"",
            b"\x80\x02(" + b"]" * 20_000_000 + b"l.",
        ]
    ):
        yield kit.write("source", f"cifar-{number}", tarred({"data_batch_1": batch, "batches.meta": meta}), ".tar.gz")
    whole = tarred({"data_batch_1": pickle.dumps(good), "batches.meta": meta})
    yield kit.write("source", "cifar-cut", whole[: len(whole) // 2], ".tar.gz")
    yield kit.write("source", "cifar-text", b"not a tar", ".tar.gz")
    yield kit.write(
        "source", "cifar-bomb", tarred({"data_batch_1": bytes(1_500_000_000), "batches.meta": meta}), ".tar.gz"
    )
    for name, kind, size in (
        ("link", tarfile.SYMTYPE, 0),
        ("fifo", tarfile.FIFOTYPE, 0),
        ("size", tarfile.REGTYPE, 1 << 50),
    ):
        info = tarfile.TarInfo("data_batch_1")
        info.type, info.linkname, info.size = kind, "/etc/passwd", size
        yield kit.write("source", f"cifar-{name}", gzip.compress(info.tobuf() + bytes(2048)), ".tar.gz")


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def databases(kit: Kit) -> Iterator[Case]:
    import lmdb

    folder = kit.folder / "good" / "x_lmdb"
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=1 << 24) as database, database.begin(write=True) as transaction:
        for index in range(200):
            transaction.put(f"{index:04d}".encode(), (kit.pictures / "0.png").read_bytes() + os.urandom(4000))
    whole = (folder / "data.mdb").read_bytes()
    changes = {f"cut-{part}": whole[: len(whole) * part // 10] for part in (1, 3, 5, 9)}
    for trial in range(6):
        data = bytearray(whole)
        for _ in range(2000):
            data[kit.rng.randrange(8192, len(data))] = kit.rng.randrange(256)
        changes[f"noise-{trial}"] = bytes(data)
    changes |= {"empty": b"", "text": b"hello\n", "zeros": bytes(1 << 20), "meta-only": whole[:8192]}
    for name, data in changes.items():
        place = kit.folder / "source" / f"{name}_lmdb"
        place.mkdir(parents=True, exist_ok=True)
        (place / "data.mdb").write_bytes(data)
        yield Case("source", f"lmdb-{name}", place)


def latents(kit: Kit) -> Iterator[Case]:
    whole = to_npy(np.ones((8, 4, 4), np.float16))
    encoder = {"name": "vae", "model": "m", "scale": 0.18, "sha256": "0" * 64}
    flipped = bytearray(whole)
    flipped[200] ^= 1
    files: dict[str, tuple[bytes, object]] = {
        "cut": (whole[:150], encoder),
        "flip": (bytes(flipped), encoder),
        "nan": (to_npy(np.full((8, 4, 4), np.nan, np.float16)), encoder),
        "header": (npy_header("|O", (8, 4, 4)) + bytes(100), encoder),
        "shape": (npy_header("<f2", (1 << 40, 4, 4)) + bytes(100), encoder),
        "code": (b"\x93NUMPY\x01\x00" + struct.pack("<H", 40) + b"__import__('os').system('true')".ljust(40), encoder),
        "odd": (checksums.sealed(whole[:150]), encoder),
        "scale": (whole, {**encoder, "scale": 1e400}),
        "text": (whole, {**encoder, "scale": "x"}),
        "list": (whole, [1]),
    }
    for name, (data, described) in files.items():
        about = json.dumps({"labels": None, "encoder": described}).encode()
        content = zipped({"a.npy": data, "b.npy": whole, "dataset.json": about})
        yield kit.write("latents", name, content, ".zip")
