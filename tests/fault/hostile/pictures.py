"""Hostile pictures, and folders and zips of them."""

import io
import json
import os
import socket
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fault.hostile.arrays import zipped
from tests.fault.hostile.kit import EVERY, Case, Kit

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def cases(kit: Kit) -> Iterator[Case]:
    good = (kit.pictures / "0.png").read_bytes()
    for name, (data, suffix) in broken(kit, good).items():
        # Formats without checksums may still be pictures; EXIF, sizes and the like are then what they say.
        accepted = EVERY if name in ("noise-PPM", "noise-BMP", "noise-TIFF", "noise-GIF") else ()
        content = zipped({"a.png": good, f"b{suffix}": data})
        yield kit.write("images", f"zip-{name}", content, ".zip", accepted=accepted)
        folder = kit.folder / "images" / f"folder-{name}"
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(good)
        (folder / f"b{suffix}").write_bytes(data)
        yield Case("images", f"folder-{name}", folder, accepted)
    largest = kit.folder / "images" / "largest"
    largest.mkdir()
    (largest / "a.png").write_bytes(png_of(8192, 8192, 3))
    yield Case("picture", "largest", largest, EVERY)
    yield from zips(kit, good)
    yield from folders(kit, good)
    yield from descriptions(kit, good)


def broken(kit: Kit, good: bytes) -> dict[str, tuple[bytes, str]]:
    """Pictures, each with the suffix of its name."""
    rgb = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    flipped = bytearray(good)
    flipped[60] ^= 4
    files = {
        "eps-png": (EPS, ".png"),
        "eps-jpg": (EPS, ".jpg"),
        "empty": (b"", ".png"),
        "text": (b"hello", ".png"),
        "cut": (good[: len(good) // 2], ".png"),
        "flip": (bytes(flipped), ".png"),
        "header-only": (good[:33], ".png"),
        "giant": (png_of(13_040, 13_040, 3), ".png"),
        "giant-header": (png_header(2_000_000_000, 2_000_000_000), ".png"),
        "giant-row": (png_header(2**31 - 1, 1), ".png"),
        "giant-bits": (png_of(400_000, 400_000, 0, rows=100), ".png"),
        "text-bomb": (with_chunk(good, b"zTXt", b"a\0\0" + zlib.compress(bytes(300_000_000), 9)), ".png"),
        "profile-bomb": (with_chunk(good, b"iCCP", b"a\0\0" + zlib.compress(bytes(300_000_000), 9)), ".png"),
    }
    for kind, suffix in {
        "JPEG": ".jpg",
        "GIF": ".gif",
        "BMP": ".bmp",
        "TIFF": ".tif",
        "WEBP": ".webp",
        "PPM": ".ppm",
    }.items():
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, kind)
        files[f"cut-{kind}"] = (buffer.getvalue()[: buffer.tell() // 2], suffix)
        noisy = bytearray(buffer.getvalue())
        for _ in range(30):
            noisy[kit.rng.randrange(2, 24 if kind == "BMP" else len(noisy))] = 255
        files[f"noise-{kind}"] = (bytes(noisy), suffix)
    return files


def png_header(width: int, height: int, colour: int = 2, depth: int = 8) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of(width: int, height: int, channels: int, rows: int | None = None) -> bytes:
    """A black PNG that is small; `channels` 0 is one bit a pixel; `rows` are fewer than promised."""
    row = 1 + (width * channels if channels else -(-width // 8))
    packer = zlib.compressobj(9)
    body = b"".join(packer.compress(bytes(row)) for _ in range(rows or height)) + packer.flush()
    header = png_header(width, height, 2 if channels else 0, 8 if channels else 1)
    return header + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def with_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    return data[:33] + chunk(kind, content) + data[33:]


def zips(kit: Kit, good: bytes) -> Iterator[Case]:
    for name, entry in {
        "parent": "../b.png",
        "inner-parent": "x/../../b.png",
        "absolute": "/tmp/b.png",
        "drive": "C:\\b.png",
        "backslashes": "..\\..\\b.png",
    }.items():
        yield kit.write("images", f"zip-{name}", zipped({"a.png": good, entry: good}), ".zip")
    for name, mode in {
        "link": stat.S_IFLNK,
        "device": stat.S_IFCHR,
        "pipe": stat.S_IFIFO,
        "socket": stat.S_IFSOCK,
    }.items():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a.png", good)
            info = zipfile.ZipInfo("b.png")
            info.create_system, info.external_attr = 3, (mode | 0o644) << 16
            archive.writestr(info, b"/etc/passwd")
        yield kit.write("images", f"zip-{name}", buffer.getvalue(), ".zip")
    whole = zipped({"a.png": good, "b.png": good})
    changes: dict[str, bytes] = {
        "cut": whole[:-30],
        "half": whole[: len(whole) // 2],
        "empty": b"",
        "no-entries": zipped({}),
        "text": b"PK but no zip",
        "twice": whole.replace(b"b.png", b"a.png"),
        "crc": whole.replace(good[40:44], bytes(4), 1),
        "escapes": zipped({"\x1b[31m\u202e" * 40 + f"{i}.png": good[:50] for i in range(3)}),
        "endless-name": zipped({"x" * 60_000 + ".png": good[:50]}),
        "bomb": zipped({"a.png": good, "b.png": bytes(600_000_000)}, zipfile.ZIP_DEFLATED),
        "bomb-json": zipped({"a.png": good, "dataset.json": b"[" * 300_000_000}, zipfile.ZIP_DEFLATED),
        "many-bombs": zipped({f"{i}.png": bytes(15_000_000) for i in range(60)}, zipfile.ZIP_DEFLATED),
        "bzip2": zipped({"a.png": good}, zipfile.ZIP_BZIP2),
        "lzma": zipped({"a.png": good}, zipfile.ZIP_LZMA),
        "absurd-size": patched(whole, 24, struct.pack("<I", 0xFFFFFFFE)),
        "absurd-compressed": patched(whole, 20, struct.pack("<I", 0x7FFFFFFF)),
        "offset": patched(whole, 42, struct.pack("<I", 0x7FFFFFFF)),
        "encrypted": patched(whole, 8, struct.pack("<H", 1)),
        "method": patched(whole, 10, struct.pack("<H", 99)),
        "overlapping": overlapping(whole),
        "nothing-but-text": zipped({"readme.txt": b"hello"}),
    }  # fmt: skip
    for name, data in changes.items():
        yield kit.write("images", f"zip-{name}", data, ".zip")
    for trial in range(20):
        data = bytearray(whole)
        data[kit.rng.randrange(len(data))] ^= 1 << kit.rng.randrange(8)
        # A flipped date or flag of the archive changes nothing that is read.
        yield kit.write("images", f"zip-flip-{trial}", bytes(data), ".zip", accepted=EVERY)


def patched(archive: bytes, place: int, value: bytes) -> bytes:
    """Change a field of the last entry in the directory of a zip."""
    start = archive.rindex(b"PK\x01\x02") + place
    return archive[:start] + value + archive[start + len(value) :]


def overlapping(archive: bytes) -> bytes:
    """Let the directory list its first entry 500 times under other names."""
    start, end = archive.index(b"PK\x01\x02"), archive.index(b"PK\x05\x06")
    entry = archive[start : archive.index(b"PK\x01\x02", start + 4)]
    entries = b"".join(entry[:46] + f"{i:03d}.p".encode() + entry[51:] for i in range(500))
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 500, 500, len(entries), start, 0)
    assert end > start
    return archive[:start] + entries + tail


def folders(kit: Kit, good: bytes) -> Iterator[Case]:
    def folder(name: str) -> Path:
        place = kit.folder / "images" / f"place-{name}"
        place.mkdir(parents=True)
        return place

    (place := folder("pipe-only"),)
    os.mkfifo(place / "a.png")
    yield Case("images", "pipe-only", place)
    for name, target in {"zero": "/dev/zero", "random": "/dev/urandom", "terminal": "/dev/tty"}.items():
        place = folder(name)
        (place / "a.png").symlink_to(target)
        yield Case("images", f"link-{name}", place)
    place = folder("pipe-beside")
    (place / "a.png").write_bytes(good)
    os.mkfifo(place / "b.png")
    os.mkfifo(place / "dataset.json")
    (place / "c.png").symlink_to("/dev/zero")
    (place / "d.png").symlink_to("nowhere")
    (place / "again").symlink_to(".")
    yield Case("images", "pipe-beside", place, accepted=EVERY)
    place = folder("socket")
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(place)
        server.bind("a.png")
        os.chdir(here)
    yield Case("images", "socket", place)
    place = folder("sparse")
    with open(place / "a.png", "wb") as file:
        file.write(good[:100])
        file.truncate(50 * 10**9)
    yield Case("images", "sparse", place)
    place = folder("names")
    for name in (b"\x1b[31mred\x1b[0m.png", b"caf\xe9.png", "\u202egnp.exe.png".encode(), b"x" * 240 + b".png"):
        (Path(os.fsdecode(os.fsencode(place) + b"/" + name))).write_bytes(good[:50])
    yield Case("images", "names", place)
    place = folder("classes")
    for name in (b"caf\xe9", b"b"):
        inner = Path(os.fsdecode(os.fsencode(place) + b"/" + name))
        inner.mkdir()
        (inner / "a.png").write_bytes(good)
    yield Case("images", "classes", place)
    yield Case("images", "nothing", folder("nothing"))
    yield Case("images", "missing", kit.folder / "images" / "missing")
    yield Case("images", "device", Path("/dev/zero"))


def descriptions(kit: Kit, good: bytes) -> Iterator[Case]:
    """Files dataset.json beside good pictures."""
    texts: dict[str, bytes] = {
        "empty": b"",
        "list": b"[]",
        "number": b"3",
        "deep": b'{"labels": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        "deep-objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        "open": b"[" * 30_000_000,
        "many": b'{"labels": [' + b"[]," * 20_000_000 + b"[]]}",
        "long": b'{"labels": null, "x": "' + b"x" * 70_000_000 + b'"}',
        "digits": b'{"labels": [["a.png", ' + b"9" * 5000 + b"]]}",
        "big": b'{"labels": [["a.png", 1' + b"0" * 30 + b"]]}",
        "negative": b'{"labels": [["a.png", -1]]}',
        "nan": b'{"labels": [["a.png", NaN]]}',
        "infinite": b'{"labels": [["a.png", [1e999]]]}',
        "float": b'{"labels": [["a.png", [1e300]]]}',
        "bool": b'{"labels": [["a.png", true]]}',
        "nested": b'{"labels": [["a.png", [[1]]]]}',
        "none": b'{"labels": [["a.png", null]]}',
        "dict": b'{"labels": {"a.png": 1}}',
        "pairs": b'{"labels": [["a.png"]]}',
        "names": b'{"labels": [[5, 1]]}',
        "twice": b'{"labels": [["a.png", 1], ["a.png", 2]]}',
        "absent": b'{"labels": [["\\u001b[31mx.png", 1]]}',
        "surrogate": b'{"labels": [["a.png", 0]], "class_names": ["\\ud800"]}',
        "class-names": b'{"labels": [["a.png", 0]], "class_names": [1]}',
        "few-names": b'{"labels": [["a.png", 5]], "class_names": ["x"]}',
        "latin": b'{"labels": [["caf\xe9.png", 0]]}',
        "encoder": b'{"labels": null, "encoder": {"name": 1}}',
        "encoder-list": b'{"labels": null, "encoder": [1]}',
        "encoder-scale": b'{"labels": null, "encoder": {"name": "vae", "model": "x", "scale": -1, "sha256": ""}}',
    }
    for name, text in texts.items():
        data = zipped({"a.png": good, "dataset.json": text})
        # The conversion of pictures has no use for the encoder of latents.
        accepted = ("dataset_tool",) if name.startswith("encoder") else ()
        yield kit.write("images", f"json-{name}", data, ".zip", accepted=accepted)
    strange = json.dumps({"labels": [["a.png", 0]], "class_names": ["\x1b[31m\u202e"]}).encode()
    yield kit.write("images", "json-escapes", zipped({"a.png": good, "dataset.json": strange}), ".zip", accepted=EVERY)
