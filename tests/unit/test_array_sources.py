"""Sources of arrays for conversion: in order, with labels, and mistakes named with their place."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from elucid.dnnlib.errors import UserError
from elucid.preparation.fields.convert import ArrayOptions, convert_arrays
from elucid.preparation.fields.sources import is_array_source, open_array_source
from elucid.training.data.arrays.missing import MissingValues, count_missing, first_missing
from elucid.training.data.dataset import open_dataset
from elucid.training.data.npy import to_npy

VALUES = np.random.default_rng(0).normal(0, 1, (6, 2, 4, 8)).astype(np.float32)


def saved(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def packed(array):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, field=array)
    return buffer.getvalue()


def tif(array):
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, photometric="minisblack")
    return buffer.getvalue()


def pack(path, files, **about):
    files = {**files, **({"dataset.json": json.dumps(about).encode()} if about else {})}
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


@pytest.mark.parametrize("encode, suffix", [(saved, "npy"), (to_npy, "npy"), (packed, "npz"), (tif, "tif")])
@pytest.mark.parametrize("end", ["x.zip", "folder"])
def test_files_in_order_with_the_labels_of_their_folders(tmp_path, encode, suffix, end):
    names = [f"{'ab'[i % 2]}/{i}.{suffix}" for i in range(6)]
    path = pack(tmp_path / end, {**{name: encode(one) for name, one in zip(names, VALUES, strict=True)}, "r.txt": b""})
    assert is_array_source(str(path))
    source = pickle.loads(pickle.dumps(open_array_source(str(path))))
    assert (len(source), source.shape, source.dtype) == (6, (2, 4, 8), np.float32) and source.notes
    order = sorted(range(6), key=lambda i: names[i])
    for (name, array, label), i in zip(source, order, strict=True):
        assert name == f"{path}/{names[i]}" and label == i % 2
        np.testing.assert_array_equal(array, VALUES[i])


def test_names_and_units_of_channels_come_along(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["t"] = VALUES
        file["t"].attrs.update({"channel_names": ["u10", "t2m"], "units": ["m/s", "K"]})
    for channels, names, units in ((None, ["u10", "t2m"], ["m/s", "K"]), ([1], ["t2m"], ["K"])):
        options = ArrayOptions(array_channels=channels)
        convert_arrays(str(tmp_path / "x.h5"), tmp_path / "y.zip", options, overwrite=True, progress=False)
        about = open_dataset(tmp_path / "y.zip", arrays=True).arrays
        assert (about["channel_names"], about["units"]) == (names, units)


def test_labels_of_a_description(tmp_path):
    files = {f"{i}.npy": saved(VALUES[i]) for i in range(3)}
    source = open_array_source(str(pack(tmp_path / "x.zip", files, labels=[["0.npy", 2], ["2.npy", 0]])))
    assert [one.label for one in source] == [2, None, 0]


def test_one_array_of_all(tmp_path):
    np.savez(tmp_path / "x.npz", fields=VALUES.astype("f8"), kinds=np.arange(12.0).reshape(6, 2))
    assert is_array_source(f"{tmp_path}/x.npz/fields")
    source = pickle.loads(pickle.dumps(open_array_source(f"{tmp_path}/x.npz/fields", labels="kinds")))
    assert (source.shape, source.dtype, source.name) == ((2, 4, 8), np.float64, "x")
    for i, (name, array, label) in enumerate(source):
        assert name == f"{tmp_path}/x.npz/fields[{i}]" and label.tolist() == [2 * i, 2 * i + 1]
        np.testing.assert_array_equal(array, VALUES[i])


@pytest.mark.parametrize(
    "axes, shape, sample", [(None, (4, 8), (1, 4, 8)), ("NHWC", (4, 8, 2), (2, 4, 8)), ("ncw", (2, 8), (2, 1, 8))]
)
def test_axes_of_files(tmp_path, axes, shape, sample):
    array = np.arange(np.prod(shape), dtype="f4").reshape(shape)
    source = open_array_source(str(pack(tmp_path / "x.zip", {"0.npy": saved(array)})), axes=axes)
    moved = np.moveaxis(array, -1, 0) if axes == "NHWC" else array
    np.testing.assert_array_equal(source.array(0), moved.reshape(sample))
    assert source.shape == sample


@pytest.mark.parametrize("other", [VALUES[1, :, :3], VALUES[1].astype("f8"), VALUES[1, :1]])
def test_ragged_files_are_both_named(tmp_path, other):
    path = pack(tmp_path / "x.zip", {"0.npy": saved(VALUES[0]), "1.npy": saved(other)})
    with pytest.raises(UserError) as raised:
        list(open_array_source(str(path)))
    assert all(f"x.zip/{name}" in str(raised.value) for name in ("0.npy", "1.npy"))


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_missing_values_are_found_at_their_place(kind, value):
    array = np.zeros((3, 4, 5), kind)
    assert first_missing(array) is None and count_missing(array).tolist() == [0, 0, 0]
    array[1, 2, 3] = array[2, 0, 0] = value
    place = first_missing(array)
    assert place[:3] == (1, 2, 3) and (np.isnan(place.value) if np.isnan(value) else place.value == value)
    found = MissingValues()
    assert found.line() == ""
    for name, one in (("a", np.zeros((3, 4, 5), kind)), ("b", array), ("c", array)):
        found.add(name, one)
    assert (found.total, found.samples, found.per_channel.tolist()) == (4, 2, [0, 2, 2])
    assert "b, channel 1, row 2, column 3" in found.line() and "channels 1, 2;" in found.line()
    assert first_missing(np.zeros((1, 2, 2), "u1")) is None
