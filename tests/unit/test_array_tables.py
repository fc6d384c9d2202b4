"""Datasets that are one array: every format gives what was stored, from threads, forks and pickles, or says why not."""

import io
import json
import multiprocessing
import pickle
import struct
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from click.testing import CliRunner

from elucid.commands import train
from elucid.dnnlib import errors
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import limits
from elucid.training.config.data import read_dataset
from elucid.training.config.settings import DataOptions
from elucid.training.data.arrays import tables
from elucid.training.data.arrays.axes import Axes
from elucid.training.data.arrays.chunks import Rows
from elucid.training.data.arrays.formats.stored import MemoryArray
from elucid.training.data.arrays.tables import ArrayTable, SourceTable, table_at

VALUES = np.random.default_rng(0).normal(280, 20, (13, 3, 8, 16)).astype(np.float32)
CLASSES = np.arange(13) % 4


def h5(path, chunks=None, **arrays):
    h5py = pytest.importorskip("h5py")
    packing = {"chunks": chunks, "compression": "gzip"} if chunks else {}
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **(packing if array.ndim > 2 else {}))
    return path


def zarr_folder(path, version=3, chunks=(1, 3, 8, 16), shards=None, store=None, **arrays):
    zarr = pytest.importorskip("zarr", minversion="3")
    group = zarr.open_group(store or path, mode="w", zarr_format=version)
    for name, array in arrays.items():
        packing = {"chunks": chunks, "shards": shards} if array.ndim > 2 else {}
        group.create_array(name, data=array, **packing)
    return path


def zarr_zip(path, **arrays):
    storage = pytest.importorskip("zarr", minversion="3").storage
    with storage.ZipStore(path, mode="w") as store:
        return zarr_folder(path, shards=(4, 3, 8, 16), store=store, **arrays)


def npz(path, save=np.savez, **arrays):
    save(path, **arrays)
    return path


def npy(path, x, labels=None):
    np.save(path, x)
    return path


WRITERS = {
    "contiguous.h5": h5,
    "chunked.h5": lambda path, **arrays: h5(path, (4, 1, 8, 16), **arrays),
    "single.hdf5": lambda path, **arrays: h5(path, (1, 3, 8, 16), **arrays),
    "three.zarr": zarr_folder,
    "two.zarr": lambda path, **arrays: zarr_folder(path, 2, (5, 3, 4, 16), **arrays),
    "packed.zarr.zip": zarr_zip,
    "plain.npy": npy,
    "plain.npz": npz,
    "packed.npz": lambda path, **arrays: npz(path, np.savez_compressed, **arrays),
}


@pytest.fixture(params=WRITERS)
def written(request, tmp_path):
    return WRITERS[request.param](tmp_path / request.param, x=VALUES, labels=CLASSES)


def read(table, index):
    return table.image(index).tobytes()


def test_samples_are_those_stored_in_threads_forks_and_pickles(written):
    table = ArrayTable(written)
    wanted = [one.tobytes() for one in VALUES]
    assert (len(table), table.channels, table.resolution, table.dtype) == (13, 3, (8, 16), np.float32)
    order = np.random.default_rng(1).integers(0, 13, 60).tolist()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda i: read(table, i), order)) == [wanted[i] for i in order]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.starmap(read, [(table, i) for i in range(13)]) == wanted
    again = pickle.loads(pickle.dumps(table))
    assert [read(again, i) for i in range(13)] == wanted and again.fingerprint == table.fingerprint
    with pytest.raises(IndexError):
        table.image(13)


def test_a_forked_process_reads_what_the_parent_has_open(written):
    table = ArrayTable(written)
    first = read(table, 5)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=lambda: queue.put(read(table, 5) == first)) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(20)
        assert child.exitcode == 0 and queue.get()
    assert read(table, 6) == VALUES[6].tobytes()


def test_labels_lie_beside_the_array(written):
    if written.suffix == ".npy":
        assert ArrayTable(written).labels is None
        return
    table = ArrayTable(written, use_labels=True, max_size=6, seed=3)
    places = [int(table.image_name(i).partition("[")[2][:-1]) for i in range(6)]
    assert table.label_dim == 4 and len(table) == 6 and table.has_labels
    for index, place in enumerate(places):
        assert read(table, index) == VALUES[place].tobytes()
        assert table.label(index).argmax() == CLASSES[place] and table.label(index).sum() == 1
    assert table.class_counts == np.bincount(CLASSES[places], minlength=4).tolist()
    assert table.fingerprint != ArrayTable(written).fingerprint


@pytest.mark.parametrize("kind", ["uint8", "uint16", "float16", "float32", ">f4", ">u2"])
@pytest.mark.parametrize("name", ["a.h5", "a.npy", "a.zarr"])
def test_dtypes_stay_and_bytes_are_in_the_machines_order(tmp_path, kind, name):
    values = (np.arange(2 * 2 * 8 * 8) % 250).reshape(2, 2, 8, 8).astype(kind)
    table = ArrayTable(WRITERS[{"a.h5": "contiguous.h5", "a.npy": "plain.npy", "a.zarr": "two.zarr"}[name]]
                       (tmp_path / name, x=values))  # fmt: skip
    assert table.image(1).dtype == table.dtype == np.dtype(kind).newbyteorder("=")
    np.testing.assert_array_equal(table.image(1), values[1])


@pytest.mark.parametrize(
    "axes, shape, sample",
    [
        ("NCHW", (2, 3, 4, 5), (3, 4, 5)),
        ("NHWC", (2, 4, 5, 3), (3, 4, 5)),
        ("nhw", (2, 4, 5), (1, 4, 5)),
        (None, (2, 4, 5), (1, 4, 5)),
        ("NCW", (2, 3, 5), (3, 1, 5)),
        ("NWC", (2, 5, 3), (3, 1, 5)),
        ("NW", (2, 5), (1, 1, 5)),
    ],
)
def test_axes(tmp_path, axes, shape, sample):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    found = ArrayTable(npy(tmp_path / "x.npy", values), axes=axes).image(1)
    letters = (axes or "NHW").upper()[1:]
    assert found.shape == sample
    for place in np.ndindex(shape[1:]):
        channel, row, column = (place[letters.index(one)] if one in letters else 0 for one in "CHW")
        assert found[channel, row, column] == values[1][place]


def test_three_axes_are_read_as_height_and_width_with_a_note(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(errors, "_noted", set())
    ArrayTable(npy(tmp_path / "x.npy", np.zeros((2, 4, 5), np.float32)))
    assert "NCW" in capsys.readouterr().err


@pytest.mark.parametrize("axes", ["CHW", "NCH", "NNW", "NXW", "HNW", ""])
def test_axes_that_are_none(axes):
    with pytest.raises(UserError, match="`axes`"):
        Axes(axes)


def test_an_only_array_needs_no_name_and_of_several_all_are_named(tmp_path):
    path = h5(tmp_path / "x.h5", **{"a/fields": VALUES, "a/labels": CLASSES, "a/time": np.arange(13)})
    assert [table_at(f"{path}{end}").inside for end in ("", "/a", "/a/fields")] == ["", "a", "a/fields"]
    for end in ("", "/a", "/a/fields"):
        assert ArrayTable(f"{path}{end}").image(2).tolist() == VALUES[2].tolist()
    h5(path, **{"a/fields": VALUES, "b/more": VALUES})
    with pytest.raises(UserError, match=r"a/fields \[13, 3, 8, 16\], b/more \[13, 3, 8, 16\]"):
        ArrayTable(path)


def test_values_that_a_file_calls_missing_are_nan(tmp_path):
    h5py = pytest.importorskip("h5py")
    values = VALUES.copy()
    values[1, 2, 3, 4] = 9.96921e36
    path = h5(tmp_path / "x.nc", t=values)
    with h5py.File(path, "a") as file:
        file["t"].attrs["_FillValue"] = np.array([9.96921e36], np.float32)
    image = ArrayTable(path).image(1)
    assert np.isnan(image[2, 3, 4]) and np.isnan(image).sum() == 1
    with h5py.File(path, "a") as file:
        file["t"].attrs["scale_factor"] = 0.01
    with pytest.raises(UserError, match="scale_factor"):
        ArrayTable(path)


def test_opening_reads_no_samples(written, monkeypatch):
    if "packed.npz" in written.name:
        pytest.skip("compressed whole, so it is in memory")
    kind = type(ArrayTable(written)._stored)
    monkeypatch.setattr(kind, "rows", lambda *_: pytest.fail("read"))
    ArrayTable(written, use_labels=written.suffix != ".npy")


def test_chunks_are_decompressed_once_while_they_are_kept():
    class Counted(MemoryArray):
        rows_per_chunk = 4
        read = []

        def rows(self, first, end):
            self.read.append((first, end))
            return super().rows(first, end)

    array = Counted(None, "x", VALUES)
    rows = Rows(array, budget=2 * 4 * array.row_bytes)
    assert rows.reads_more == 4
    for index in (0, 3, 1, 12, 2, 12, 5, 4, 12, 0):
        np.testing.assert_array_equal(rows[index], VALUES[index])
    assert array.read == [(0, 4), (12, 13), (4, 8), (0, 4)]
    assert Rows(array, budget=10**6).reads_more == 1


def test_chunks_of_many_samples_are_noted(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(errors, "_noted", set())
    monkeypatch.setattr(tables, "LARGE", 20 * 256)
    many = np.zeros((40, 1, 8, 8), np.float32)
    monkeypatch.setattr(Rows.__init__, "__defaults__", (1000,))
    ArrayTable(h5(tmp_path / "x.h5", (20, 1, 8, 8), x=many))
    assert "20 samples are decompressed to read one" in capsys.readouterr().err


def test_the_reader_is_chosen_by_the_path_and_takes_options(tmp_path):
    path = str(npy(tmp_path / "x.npy", np.moveaxis(VALUES, 1, 3)))
    table = read_dataset(DataOptions(path, {"axes": "NHWC"}, max_size=5))
    assert len(table) == 5 and table.channels == 3
    with pytest.raises(UserError, match="NHWC"):
        read_dataset(DataOptions(path))
    with pytest.raises(UserError, match="axes"):
        read_dataset(DataOptions(path, {"name": "table", "axis": "NHWC"}))


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
    with pytest.raises(UserError) as raised:
        ArrayTable(path)
    assert said in str(raised.value) and "\n" not in str(raised.value)
    assert "a." in str(raised.value)  # the file


@pytest.mark.parametrize("name", ["float64", "several", "no zarr", "huge h5", "labels short"])
def test_the_command_ends_with_code_2(tmp_path, name):
    file, make, _ = BAD[name]
    arguments = [f"--data={make(tmp_path / file)}", f"--outdir={tmp_path / 'r'}", "-n", "--device=cpu"]
    done = CliRunner().invoke(train.main, arguments)
    assert isinstance(done.exception, UserError) or done.exit_code == 2


def test_training_without_labels_is_told_what_lacks(tmp_path):
    with pytest.raises(UserError, match="`cond`=1"):
        ArrayTable(npy(tmp_path / "x.npy", VALUES), use_labels=True)
    with pytest.raises(UserError, match=r"1 of 13 .*x\[0\]"):
        ArrayTable(npz(tmp_path / "x.npz", x=VALUES, labels=np.arange(13) - 1), use_labels=True)


def test_vectors_and_class_names(tmp_path):
    vectors = np.arange(26.0).reshape(13, 2)
    vectors[3] = np.nan
    labels = ArrayTable(npz(tmp_path / "x.npz", x=VALUES, labels=vectors)).labels
    assert labels.dim == 2 and labels.missing.tolist() == [3] and labels.vector(4).tolist() == [8, 9]
    path = h5(tmp_path / "x.h5", x=VALUES, labels=CLASSES)
    with pytest.importorskip("h5py").File(path, "a") as file:
        file["labels"].attrs["class_names"] = ["sun", "rain", "snow", "hail"]
    assert ArrayTable(path).class_names == ["sun", "rain", "snow", "hail"]


def test_a_large_compressed_npz_is_converted_but_not_trained_on(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, "SMALL", 1000)
    path = npz(tmp_path / "x.npz", np.savez_compressed, x=VALUES)
    with pytest.raises(UserError, match=r"numpy.savez, or convert it: dataset_tool.py --source="):
        ArrayTable(path)
    np.testing.assert_array_equal(SourceTable(path).image(9), VALUES[9])


@pytest.mark.parametrize("library, name, extra", [("h5py", "a.h5", "hdf5"), ("zarr", "a.zarr", "zarr")])
def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, library, name, extra):
    WRITERS["contiguous.h5" if extra == "hdf5" else "three.zarr"](tmp_path / name, x=VALUES)
    monkeypatch.setitem(__import__("sys").modules, library, None)
    with pytest.raises(UserError, match=rf"elucid\[{extra}\]"):
        ArrayTable(tmp_path / name)
