"""Datasets that are one array: every format gives what was stored, from threads, forks and pickles."""

import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

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
from elucid.training.data.conditions.maps import Maps
from elucid.training.data.loading.stream import BatchStream
from tests.tables import CLASSES, VALUES, WRITERS, h5, npy, npz


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


def test_batches_are_those_samples(written):
    for options in ({}, {"max_size": 7}):
        table = ArrayTable(written, **options)
        table._rows._most = 0 if "zarr" in written.name else 1  # as if they were too many to keep
        stream = BatchStream(table, [], torch.device("cpu"), seed=1, workers=2)
        for step in range(4):
            images = stream.next(6).images.numpy()
            places = [i % len(table) for i in stream._order(np.arange(6 * step, 6 * step + 6)).tolist()]
            assert [one.tobytes() for one in images] == [read(table, i) for i in places]
        stream.close()


def test_maps_of_tables_belong_to_their_images_in_order(tmp_path):
    maps = Maps(ArrayTable(npy(tmp_path / "maps.npy", VALUES)), ArrayTable(npy(tmp_path / "x.npy", VALUES + 1)))
    np.testing.assert_array_equal(maps.read(np.array([4, 0, 4])), VALUES[[4, 0, 4]])
    with pytest.raises(UserError, match="`cond_images`.*13 maps.*5 images"):
        Maps(ArrayTable(tmp_path / "maps.npy"), ArrayTable(npy(tmp_path / "y.npy", VALUES[:5])))


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


@pytest.mark.parametrize("written", ["three.zarr", "contiguous.h5"], indirect=True)
def test_attributes_tell_of_the_channels(written):
    about = {"mean": [1.0, 2.0, 3.0], "std": [4.0, 5.0, 6.0], "channel_names": ["t", "u", "v"], "units": "K"}
    for given, kept in (
        (about, {name: about[name] for name in ("mean", "std", "channel_names")}),
        ({"mean": 280.0, "channel_names": ["t"]}, {}),
    ):
        if written.suffix == ".zarr":
            pytest.importorskip("zarr").open_array(written / "x").attrs.put(given)
        else:
            with pytest.importorskip("h5py").File(written, "a") as file:
                file["x"].attrs.clear()
                file["x"].attrs.update(given)
        assert ArrayTable(written).arrays == {"name": "arrays", **kept}
