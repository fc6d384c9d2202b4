"""Files of one array each: TIFFs of every layout, npy and npz, their headers, and what lies about itself."""

import io
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.training.data.archives import open_files
from elucid.training.data.arrays.formats.tiff_header import tiff_header
from elucid.training.data.arrays.members import array_header, holds_arrays, is_array, read_any, read_array
from elucid.training.data.npy import to_npy

KINDS = ("uint8", "uint16", "float16", "float32")


def tif(array, **options):
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def values(shape, kind="uint16"):
    return (np.random.default_rng(0).random(shape) * 250).astype(kind)


def npz(save=np.savez, **arrays):
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


LAYOUTS = {
    "gray": ((9, 7), {}, lambda x: x[None]),
    "pages": ((5, 9, 7), {"photometric": "minisblack"}, lambda x: x),
    "colours": ((9, 7, 3), {"photometric": "rgb"}, lambda x: x.transpose(2, 0, 1)),
    "planes": ((3, 9, 7), {"photometric": "rgb", "planarconfig": "separate"}, lambda x: x),
    "pages of colours": (
        (2, 9, 7, 3), {"photometric": "rgb"}, lambda x: x.transpose(0, 3, 1, 2).reshape(6, 9, 7)
    ),
    "tiles": ((40, 33), {"tile": (16, 16)}, lambda x: x[None]),
    "deflate": ((5, 9, 7), {"compression": "zlib", "photometric": "minisblack"}, lambda x: x),
    "big": ((9, 7), {"bigtiff": True}, lambda x: x[None]),
    "other order": ((9, 7), {"byteorder": ">"}, lambda x: x[None]),
    "big in other order": ((2, 9, 7), {"byteorder": ">", "bigtiff": True, "photometric": "minisblack"}, lambda x: x),
    "imagej": ((4, 9, 7), {"imagej": True}, lambda x: x),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_tiffs_are_arrays_of_channels(layout, kind):
    shape, options, arranged = LAYOUTS[layout]
    if kind == "float16" and layout == "imagej":
        pytest.skip("no such file")
    given = values(shape, kind)
    data = tif(given, **options)
    array = read_array(data, "a.tif")
    np.testing.assert_array_equal(array, arranged(given))
    assert array.dtype == kind and array.flags.c_contiguous
    header = tiff_header(data, "a.tif")
    assert header.shape == array.shape and header.dtype == kind
    assert not header.picture or (kind == "uint8" and len(given) in (3, 9, 40))


def test_smaller_copies_and_masks_are_no_channels():
    tifffile = pytest.importorskip("tifffile")
    buffer, full = io.BytesIO(), values((16, 16))
    with tifffile.TiffWriter(buffer) as file:
        file.write(full, metadata=None)
        file.write(full[::2, ::2], subfiletype=1, metadata=None)
        file.write(full.astype(bool), subfiletype=4, metadata=None)
    np.testing.assert_array_equal(read_array(buffer.getvalue(), "a.tif"), full[None])


def test_a_header_needs_only_the_first_bytes_where_it_lies_there():
    for kind in KINDS:
        array = values((3, 40, 50), kind)
        assert array_header(npz(x=array)[:300], "a.npz") == ((3, 40, 50), np.dtype(kind))
        assert array_header(npz(np.savez_compressed, x=array)[:300], "a.npz") == ((3, 40, 50), np.dtype(kind))
        buffer = io.BytesIO()
        np.save(buffer, array)
        assert array_header(buffer.getvalue()[:128], "a.npy") == ((3, 40, 50), np.dtype(kind))
        whole = tif(array, photometric="minisblack")
        assert array_header(whole, "a.tif") == ((3, 40, 50), np.dtype(kind))
        assert array_header(whole[:300], "a.tif") is None
        assert array_header(tif(array[0])[:500], "a.tif") == ((1, 40, 50), np.dtype(kind))


def test_npy_and_npz():
    array = values((2, 3, 4), "float32")
    for data, name in ((to_npy(array), "a.npy"), (npz(x=array), "b.NPZ"), (npz(np.savez_compressed, x=array), "c.npz")):
        for read in (read_array, read_any):
            np.testing.assert_array_equal(read(data, name), array)
        assert is_array(name)
    assert not is_array("a.png")


def test_other_dtypes_and_axes_are_for_conversion_only():
    flat = values((3, 4), "float64")
    np.testing.assert_array_equal(read_any(npz(x=flat), "a.npz"), flat)
    with pytest.raises(UserError, match="a.npz is float64.*dataset_tool.py"):
        read_array(npz(x=flat), "a.npz")
    with pytest.raises(UserError, match=r"a.npz is \[1, 1, 3, 4\]"):
        read_array(npz(x=flat.astype("f4")[None, None]), "a.npz")


@pytest.mark.parametrize("encode", [npz, lambda x: to_npy(x)])
def test_first_axes_may_lack(encode):
    name = "a.npz" if encode is npz else "a.npy"
    for shape in ((4,), (3, 4), (2, 3, 4)):
        array = values(shape, "float32")
        found = read_array(encode(x=array), name)
        assert found.shape == (1,) * (3 - len(shape)) + shape and found.tobytes() == array.tobytes()
        assert array_header(encode(x=array), name) == (found.shape, found.dtype)


def patched(data, tag, value):
    """A little-endian TIFF whose first directory has another value of a tag."""
    data = bytearray(data)
    place = struct.unpack_from("<I", data, 4)[0]
    for entry in range(struct.unpack_from("<H", data, place)[0]):
        at = place + 2 + 12 * entry
        if struct.unpack_from("<H", data, at)[0] == tag:
            struct.pack_into("<HII", data, at + 2, 4, 1, value)
            return bytes(data)
    raise AssertionError(tag)


def circle(data):
    """A TIFF whose last directory is followed by its first."""
    data = bytearray(data)
    place = struct.unpack_from("<I", data, 4)[0]
    count = struct.unpack_from("<H", data, place)[0]
    struct.pack_into("<I", data, place + 2 + 12 * count, place)
    return bytes(data)


def one_directory_for_many():
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values((4, 9, 7)), photometric="minisblack", truncate=True)
    return buffer.getvalue()


def ragged():
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(values((9, 7)))
        file.write(values((8, 7)))
    return buffer.getvalue()


def deflated_lie():
    return patched(tif(values((64, 64)), compression="zlib"), 256, 1 << 22)


def bomb():
    """A TIFF whose only strip decompresses to 50 MB."""
    packed = zlib.compress(bytes(50_000_000))
    data = bytearray(patched(tif(values((64, 64)), compression="zlib"), 273, 0))
    place = len(data) + (len(data) % 2)
    data += bytes(len(data) % 2) + packed
    return patched(patched(bytes(data), 273, place), 279, len(packed))


BAD = {
    "text": ("a.tif", lambda: b"hello", "no TIFF"),
    "magic": ("a.tif", lambda: b"II\x2c\0" + bytes(99), "no TIFF"),
    "cut": ("a.tif", lambda: tif(values((9, 7)))[:40], "damaged or cut"),
    "cut values": ("a.tif", lambda: tif(values((99, 70)))[:-99], "cannot be read"),
    "far": ("a.tif", lambda: b"II*\0" + struct.pack("<I", 1 << 31), "damaged or cut"),
    "none": ("a.tif", lambda: b"II*\0" + bytes(8), "no pages"),
    "wide": ("a.tif", lambda: patched(tif(values((9, 7))), 256, 1 << 31), "ELUCID_MAX_FILE_BYTES"),
    "wide uncompressed": ("a.tif", lambda: patched(tif(values((9, 7))), 256, 1 << 20), "is cut"),
    "wide compressed": ("a.tif", deflated_lie, "ELUCID_MAX_"),
    "no width": ("a.tif", lambda: patched(tif(values((9, 7))), 256, 0), "is empty"),
    "circle": ("a.tif", lambda: circle(tif(values((9, 7)))), "circle"),
    "ragged": ("a.tif", ragged, r"page 0 is [9, 7] uint16, page 1 [8, 7] uint16"),
    "one for many": ("a.tif", one_directory_for_many, "one page for"),
    "lies about compression": ("a.tif", lambda: patched(tif(values((9, 7))), 259, 8), "cannot be read"),
    "needs imagecodecs": ("a.tif", lambda: patched(tif(values((9, 7))), 259, 50000), "a.tif"),
    "bomb": ("a.tif", bomb, "decompress to more"),
    "tiles": ("a.tif", lambda: patched(tif(values((40, 33)), tile=(16, 16)), 322, 1 << 30), "ELUCID_MAX_FILE_BYTES"),
    "lzma": ("a.tif", lambda: patched(tif(values((9, 7))), 259, 34925), "LZMA"),
    "bits": ("a.tif", lambda: patched(tif(values((9, 7))), 258, 12), "12 bits"),
    "float64": ("a.tif", lambda: tif(values((9, 7), "f8")), "dataset_tool.py"),
    "no zip": ("a.npz", lambda: b"PK\3\4 hello", "not a whole .npz"),
    "two": ("a.npz", lambda: npz(x=values((1, 2, 3)), y=values((1, 2, 3))), "2 arrays (x, y)"),
    "objects": ("a.npz", lambda: npz(x=np.array([{}], dtype=object)), "Python objects"),
    "empty": ("a.npz", lambda: npz(x=np.zeros((0, 3, 4))), "empty"),
    "cut npz": ("a.npz", lambda: npz(x=values((9, 9, 9)))[:-50], "not a whole .npz"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_in_one_line(name):
    file, make, said = BAD[name]
    data = make()
    tracemalloc.start()
    with pytest.raises(UserError) as raised:
        read_array(data, file)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()
    assert said in str(raised.value) and file in str(raised.value)


@pytest.mark.parametrize("part", range(8))
def test_damaged_tiffs_raise_nothing_else(part):
    """Flipped bits and cuts give an array of the stated shape, or a UserError."""
    rng = np.random.default_rng(part)
    whole = tif(values((2, 9, 7)), photometric="minisblack", compression="zlib" if part % 2 else None)
    for _ in range(40):
        data = bytearray(whole[: rng.integers(1, len(whole) + 1)] if part > 5 else whole)
        for place in rng.integers(0, min(len(data), 300), 3):
            data[place] ^= 1 << rng.integers(8)
        try:
            array = read_any(bytes(data), "a.tif")
        except UserError as error:
            assert "a.tif" in str(error)
        else:
            assert array.shape == tiff_header(bytes(data), "a.tif").shape


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    data = tif(values((9, 7)))
    monkeypatch.setitem(__import__("sys").modules, "tifffile", None)
    with pytest.raises(UserError, match=r"elucid\[tiff\]"):
        read_array(data, "a.tif")


def png():
    buffer = io.BytesIO()
    Image.fromarray(values((8, 8), "uint8")).save(buffer, "PNG")
    return buffer.getvalue()


def bilevel():
    buffer = io.BytesIO()
    Image.fromarray(values((8, 8), "uint8") > 99).save(buffer, "TIFF")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "files, arrays",
    [
        ({"a.npy": lambda: b"", "dataset.json": lambda: b"{}"}, True),
        ({"a.npz": lambda: b"", "b.tif": lambda: b""}, True),
        ({"a.npy": lambda: b"", "b.png": png}, False),
        ({"a.tif": lambda: tif(values((9, 7)))}, True),
        ({"a.tif": lambda: tif(values((9, 7), "uint8"))}, False),
        ({"a.tif": lambda: tif(values((2, 9, 7), "uint8"), photometric="minisblack")}, True),
        ({"a.tif": bilevel}, False),
        ({"a.tif": lambda: tif(values((9, 7))), "b.png": png}, False),
        ({"a.tif": lambda: b"text"}, False),
        ({"a.txt": lambda: b""}, False),
    ],
)
def test_what_a_zip_holds(tmp_path, files, arrays):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name, make in files.items():
            archive.writestr(name, make())
    assert holds_arrays(open_files(tmp_path / "x.zip")) == arrays
