"""What is no array of samples, or lies about itself, is refused in one line that names it, and costs no memory."""

import io
import json
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from elucid.dnnlib.errors import UserError
from elucid.training.data.arrays.tables import ArrayTable
from tests import scripts
from tests.tables import CLASSES, VALUES, WRITERS, h5, npy, npz, zarr_folder


def bad_labels(labels):
    return lambda path: npz(path, x=VALUES, labels=labels)


def text(path, content=b"text"):
    path.write_bytes(content)
    return path


def with_objects(path):
    np.save(path, np.array([{}, None], dtype=object), allow_pickle=True)
    return path


def fortran(path):
    np.save(path, np.asfortranarray(VALUES))
    return path


def header(shape, dtype="<f4", fill=b""):
    said = str({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(said)) + said + fill


def zipped(content, method=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("x.npy", content)
    return buffer.getvalue()


def huge_h5(path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (40_000_000, 64, 512, 512), "f4", chunks=(1, 64, 64, 64), fillvalue=1)
    return path


def huge_chunks(path):
    zarr_folder(path, x=VALUES)
    about = json.loads((path / "x/zarr.json").read_text())
    about["chunk_grid"]["configuration"]["chunk_shape"] = [1 << 20, 3, 1 << 10, 1 << 10]
    (path / "x/zarr.json").write_text(json.dumps(about))
    return path


def cut_h5(path):
    whole = h5(path, x=VALUES).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return path


def elsewhere(path):
    h5py = pytest.importorskip("h5py")
    h5(path.with_name("other.h5"), x=VALUES)
    with h5py.File(path, "w") as file:
        file["x"] = h5py.ExternalLink("other.h5", "x")
    return path


BAD = {
    "float64": ("a.npy", lambda path: npy(path, VALUES.astype("f8")), "dataset_tool.py --source="),
    "int16": ("a.h5", lambda path: h5(path, x=VALUES.astype("i2")), "dataset_tool.py --source="),
    "complex": ("a.npy", lambda path: npy(path, VALUES.astype("c8")), "complex64"),
    "objects": ("a.npy", with_objects, "Python objects"),
    "texts": ("a.npy", lambda path: npy(path, np.array(["a", "b"])), "<U1"),
    "fortran": ("a.npy", fortran, "Fortran"),
    "two axes": ("a.npy", lambda path: npy(path, VALUES[:, 0, 0]), "axes"),
    "channels last": ("a.npy", lambda path: npy(path, np.zeros((2, 8, 8, 3), "u1")), "NHWC"),
    "empty": ("a.npy", lambda path: npy(path, VALUES[:0]), "is empty"),
    "no file": ("a.h5", lambda path: path, "no such array"),
    "no such array": ("a.h5/y", lambda path: h5(path.parent, x=VALUES).joinpath("y"), "there is x"),
    "no arrays": ("a.h5", lambda path: h5(path, t=np.arange(3)), "only t"),
    "nothing": ("a.h5", h5, "nothing"),
    "in an npy": ("a.npy/x", lambda path: npy(path.parent, VALUES).joinpath("x"), "is one array"),
    "in an npz": ("a.npz/y", lambda path: npz(path.parent, x=VALUES).joinpath("y"), "there is x"),
    "several": ("a.npz", lambda path: npz(path, x=VALUES, y=VALUES), "2 arrays"),
    "no zarr": ("a.zarr", lambda path: path.mkdir() or path, "no Zarr store"),
    "not h5": ("a.h5", text, "cannot be read"),
    "not npy": ("a.npy", text, "not a .npy"),
    "not npz": ("a.npz", text, "not a valid or complete zip"),
    "not zarr": ("a.zarr.zip", text, "not a valid or complete zip"),
    "cut h5": ("a.h5", cut_h5, "cannot be read"),
    "huge npy": ("a.npy", lambda path: text(path, header((1 << 20, 64, 512, 512), fill=bytes(999))), "is cut"),
    "huger npy": ("a.npy", lambda path: text(path, header((1 << 60, 1 << 60, 8, 8))), "is cut"),
    "negative npy": ("a.npy", lambda path: text(path, header((-1, 3, 8, 8))), "not a .npy"),
    "huge npz": ("a.npz", lambda path: text(path, zipped(header((1 << 20, 64, 512, 512)))), "is cut"),
    "huge packed": ("a.npz", lambda path: text(path, zipped(header((1 << 20, 64, 512, 512)), 8)), "bytes of"),
    "bomb": ("a.npz", lambda path: text(path, zipped(header((5, 1 << 20)) + bytes(20 << 20), 8)), "ELUCID_MAX_RATIO"),
    "huge h5": ("a.h5", huge_h5, "ELUCID_MAX_RATIO"),
    "huge chunks": ("a.zarr", huge_chunks, "ELUCID_MAX_ARRAY_BYTES"),
    "a link": ("a.h5", elsewhere, "nothing"),
    "a link by name": ("a.h5/x", lambda path: elsewhere(path.parent).joinpath("x"), "is a link"),
    "labels short": ("a.npz", bad_labels(CLASSES[:4]), "4, and there are 13 samples"),
    "labels negative": ("a.npz", bad_labels(CLASSES - 2), "-2"),
    "labels huge": ("a.npz", bad_labels(CLASSES * 10**9), "classes are"),
    "labels infinite": ("a.npz", bad_labels(np.full((13, 2), np.inf)), "not finite"),
    "labels cubes": ("a.npz", bad_labels(np.zeros((13, 2, 2))), "must be integers"),
    "labels texts": ("a.npz", bad_labels(np.array(["a"] * 13)), "<U1"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_in_one_line(tmp_path, name):
    file, make, said = BAD[name]
    path = make(tmp_path / file)
    tracemalloc.start()
    with pytest.raises(UserError) as raised:
        ArrayTable(path)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()
    assert said in str(raised.value) and "\n" not in str(raised.value)
    assert "a." in str(raised.value)  # the file


@pytest.mark.parametrize("script", ["train.py", "dataset_tool.py"])
@pytest.mark.parametrize("name", ["several", "no zarr", "huge h5", "huger npy", "labels short", "objects"])
def test_commands_end_with_code_2_and_one_line(tmp_path, monkeypatch, capsys, name, script):
    file, make, said = BAD[name]
    path = make(tmp_path / file)
    if script == "train.py":
        given = [f"--data={path}", f"--outdir={tmp_path / 'r'}", "-n", "--device=cpu"]
    else:
        given = [f"--source={path}", f"--dest={tmp_path / 'r.zip'}"]
    code, _, err = scripts.call(monkeypatch, capsys, script, *given)
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1 and said in lines[0] and "Traceback" not in err
    assert not (tmp_path / "r.zip").exists()


def test_training_without_labels_is_told_what_lacks(tmp_path):
    with pytest.raises(UserError, match="`cond`=1"):
        ArrayTable(npy(tmp_path / "x.npy", VALUES), use_labels=True)
    with pytest.raises(UserError, match=r"1 of 13 .*x\[0\]"):
        ArrayTable(npz(tmp_path / "x.npz", x=VALUES, labels=np.arange(13) - 1), use_labels=True)


@pytest.mark.parametrize("library, name, extra", [("h5py", "a.h5", "hdf5"), ("zarr", "a.zarr", "zarr")])
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, library, name, extra):
    WRITERS["contiguous.h5" if extra == "hdf5" else "three.zarr"](tmp_path / name, x=VALUES)
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(UserError, match=rf"elucid\[{extra}\]"):
        ArrayTable(tmp_path / name)


@pytest.mark.parametrize("name", ["chunked.h5", "packed.zarr.zip", "packed.npz", "plain.npy"])
def test_flipped_bits_give_samples_or_one_line(tmp_path, capfd, name):
    rng = np.random.default_rng(0)
    whole = WRITERS[name](tmp_path / name, x=VALUES, labels=CLASSES).read_bytes()
    for trial in range(30):
        data = bytearray(whole)
        for place in rng.integers(0, len(data) if trial % 2 else min(len(data), 3000), rng.integers(1, 5)):
            data[place] ^= 1 << rng.integers(8)
        path = tmp_path / str(trial) / name  # HDF5 would know a file again that is written over
        path.parent.mkdir()
        path.write_bytes(data[: rng.integers(1, len(data)) if trial % 8 == 7 else len(data)])
        try:
            table = ArrayTable(path)
            shapes = {table.image(index).shape for index in range(min(len(table), 13))}
            assert shapes == {(table.channels, *table.resolution)}
        except UserError as error:
            assert name in str(error)
    assert "Traceback" not in capfd.readouterr().err


def test_codecs_that_are_not_listed_are_not_run(tmp_path):
    path = zarr_folder(tmp_path / "x.zarr", x=VALUES)
    about = json.loads((path / "x/zarr.json").read_text())
    about["codecs"][1:] = [{"name": "numcodecs.json2", "configuration": {}}]
    (path / "x/zarr.json").write_text(json.dumps(about))
    with pytest.raises(UserError):
        ArrayTable(path).image(0)
