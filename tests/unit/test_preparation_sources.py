"""Every kind of source gives its pictures, labels and class names; nothing in a pickle is run."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile

import lmdb
import numpy as np
import pytest
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.pickled_arrays import load_arrays
from elucid.preparation.sources import open_source

rng = np.random.default_rng(0)


def png(size=(8, 8), value=None) -> bytes:
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    if value is not None:
        pixels[:] = value
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make_zip(path, files: dict[str, bytes], method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_folder(path, files: dict[str, bytes]):
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


FILES = {
    "zebra/a.png": png(value=1),
    "ant/deep/er.png": png(value=2),
    "ant/b.png": png(value=3),
    "loose.png": png(value=4),
}
JUNK = {".DS_Store": b"x", "__MACOSX/ant/._b.png": b"x", "ant/notes.txt": b"x", "ant/.hidden.png": b"x"}


@pytest.mark.parametrize("make", [make_zip, make_folder])
def test_classes_come_from_sorted_top_level_folders(make, tmp_path):
    source = open_source(str(make(tmp_path / "set.zip", FILES | JUNK)))
    assert [np.asarray(source.picture(i))[0, 0, 0] for i in range(len(source))] == [3, 2, 4, 1]  # by sorted name
    assert source.labels.values.tolist() == [0, 0, -1, 1]
    assert source.labels.class_names == ["ant", "zebra"]
    assert any("1 file" in note for note in source.notes), "the text file is counted as ignored, hidden files are not"


def test_a_folder_inside_a_zip_is_a_source(tmp_path):
    make_zip(tmp_path / "set.zip", {f"train/{name}": data for name, data in FILES.items()} | {"test/ant/x.png": png()})
    source = open_source(f"{tmp_path}/set.zip/train")
    assert len(source) == 4 and source.labels.class_names == ["ant", "zebra"]
    with pytest.raises(UserError, match="test, train"):
        open_source(f"{tmp_path}/set.zip/valid")


@pytest.mark.parametrize("make", [make_zip, make_folder])
@pytest.mark.parametrize("outer", ["pets/", "downloads/pets/"])
def test_folders_that_hold_everything_are_no_classes(make, outer, tmp_path):
    """As when one packs a folder instead of what is in it."""
    files = {"ant/a.png": png(), "bee/b.png": png(), "bee/old/c.png": png()}
    source = open_source(str(make(tmp_path / "set.zip", {outer + name: data for name, data in files.items()})))
    assert source.labels.class_names == ["ant", "bee"] and source.labels.values.tolist() == [0, 1, 1]
    assert any(outer in note for note in source.notes)

    described = {"x.png": png(), "dataset.json": b'{"labels": [["x.png", 3]]}'}
    source = open_source(str(make(tmp_path / "other.zip", {outer + name: data for name, data in described.items()})))
    assert source.labels.values.tolist() == [3]

    one_class = make(tmp_path / "third.zip", {"ant/a.png": png(), "ant/old/b.png": png()})
    assert open_source(str(one_class)).labels.class_names == ["ant"]


def test_a_link_to_a_folder_above_is_not_followed(tmp_path):
    make_folder(tmp_path / "set", {"ant/a.png": png(), "bee/b.png": png()})
    (tmp_path / "set/bee/loop").symlink_to(tmp_path / "set")
    (tmp_path / "set/cat").symlink_to(tmp_path / "set/ant")  # a link elsewhere is
    assert open_source(str(tmp_path / "set")).labels.values.tolist() == [0, 1, 2]


def test_numbered_folders_are_no_classes(tmp_path):
    make_zip(tmp_path / "set.zip", {"00000/img00000000.png": png(), "00001/img00001000.png": png()})
    assert open_source(str(tmp_path / "set.zip")).labels is None


def cifar_tar(path, batches: dict[str, object]):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in batches.items():
            data = content if isinstance(content, bytes) else pickle.dumps(content, protocol=2)
            info = tarfile.TarInfo(f"cifar/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def batch(count: int, key: bytes, classes: int) -> dict:
    pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
    return {b"data": pixels, key: rng.integers(0, classes, count).tolist()}


def test_cifar_10(tmp_path):
    batches = {f"data_batch_{n}": batch(3, b"labels", 10) for n in (1, 2)}
    names = [f"class {n}".encode() for n in range(10)]
    path = cifar_tar(
        tmp_path / "cifar-10-python.tar.gz",
        batches | {"test_batch": batch(2, b"labels", 10), "batches.meta": {b"label_names": names}},
    )
    source = open_source(path)
    assert len(source) == 6 and len(open_source(path + "/test")) == 2
    expected = batches["data_batch_2"][b"data"][1].reshape(3, 32, 32).transpose(1, 2, 0)  # planes R, G, B
    np.testing.assert_array_equal(np.asarray(source.picture(4)), expected)
    assert source.labels.values.tolist() == batches["data_batch_1"][b"labels"] + batches["data_batch_2"][b"labels"]
    assert source.labels.class_names == [f"class {n}" for n in range(10)]


def test_cifar_100_has_its_fine_labels(tmp_path):
    train = batch(4, b"fine_labels", 100) | {b"coarse_labels": [0, 1, 2, 3]}
    meta = {b"fine_label_names": [str(n).encode() for n in range(100)], b"coarse_label_names": [b"x"] * 20}
    files = {"train": train, "test": batch(2, b"fine_labels", 100), "meta": meta}
    source = open_source(cifar_tar(tmp_path / "cifar-100-python.tar.gz", files))
    assert source.labels.values.tolist() == train[b"fine_labels"] and source.labels.dim == 100


class Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_with_code_is_refused_by_name(protocol, tmp_path):
    data = pickle.dumps({b"data": Bomb(tmp_path / "made")}, protocol=protocol)
    with pytest.raises(UserError, match=r"batch.*(posix|nt|os)\.mkdir"):
        load_arrays(data, "batch")
    assert not (tmp_path / "made").exists()


def test_object_arrays_and_damaged_pickles_are_refused():
    with pytest.raises(UserError, match="not of numbers"):
        load_arrays(pickle.dumps(np.array([None, {}], dtype=object)), "batch")
    data = pickle.dumps(np.arange(100))
    for cut in (1, 20, len(data) // 2, len(data) - 1):
        with pytest.raises(UserError, match="batch"):
            load_arrays(data[:cut], "batch")


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", ["u1", ">i4", "f8"])
def test_arrays_in_pickles_are_read(protocol, dtype):
    array = np.arange(12).reshape(3, 4).astype(dtype)
    result = load_arrays(pickle.dumps({"a": array}, protocol=protocol), "batch")
    value = next(iter(result.values()))
    np.testing.assert_array_equal(value, array)
    assert np.dtype("i4").isnative, "numpy's own types stay as they were"


PYTHON_2 = (  # {"data": np.array([0, 128, 255], "u1"), "labels": [5]} as Python 2 pickles it
    b"\x80\x02}q\x00(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    b"(K\x01K\x03\x85cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    b"\x89U\x03\x00\x80\xfftbU\x06labels]K\x05au."
)


def test_arrays_that_python_2_wrote():
    content = load_arrays(PYTHON_2, "batch")
    assert content["data"].tolist() == [0, 128, 255] and content["labels"] == [5]


def test_deep_and_shared_lists_are_read_without_recursion():
    shared = [np.arange(3)]
    content = load_arrays(pickle.dumps({"a": shared, "b": shared}), "batch")
    assert content["a"] is content["b"] and content["b"][0].tolist() == [0, 1, 2]
    deep = b"]" * 100_000 + b"a" * 99_999 + b"."
    assert load_arrays(deep, "batch") is not None


def test_a_batch_that_is_no_dictionary(tmp_path):
    files = {"data_batch_1": [1, 2], "batches.meta": {b"label_names": []}}
    with pytest.raises(UserError, match="does not contain CIFAR's arrays"):
        open_source(cifar_tar(tmp_path / "cifar-10-python.tar.gz", files))


def write_idx(path, array: np.ndarray):
    data = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize(
    ("images_name", "labels_name"),
    [
        ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte.gz"),
        ("emnist-letters-train-images-idx3-ubyte.gz", "emnist-letters-train-labels-idx1-ubyte"),
        ("train-images.idx3-ubyte", "train-labels.idx1-ubyte"),
    ],
)
def test_idx_pairs_are_padded_and_labelled(images_name, labels_name, tmp_path):
    images = rng.integers(1, 256, (5, 28, 28), dtype=np.uint8)
    path = write_idx(tmp_path / images_name, images)
    write_idx(tmp_path / labels_name, np.array([3, 1, 4, 1, 5], dtype=np.uint8))
    source = open_source(str(path))
    pixels = np.asarray(source.picture(2))
    np.testing.assert_array_equal(pixels[2:-2, 2:-2], images[2])
    assert pixels.shape == (32, 32) and pixels.astype(int).sum() == images[2].astype(int).sum()
    assert source.labels.values.tolist() == [3, 1, 4, 1, 5]


def test_idx_without_labels_and_truncated(tmp_path):
    path = write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((3, 28, 28), dtype=np.uint8))
    source = open_source(str(path))
    assert source.labels is None and "no label file" in source.notes[0]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match="train-images-idx3-ubyte holds"):
        open_source(str(path))


def test_a_folder_of_idx_files_means_its_training_images(tmp_path):
    """Compressed and not is the same file twice; a note says how to get the test images."""
    for name, count in (
        ("train-images-idx3-ubyte.gz", 4),
        ("train-images-idx3-ubyte", 4),
        ("t10k-images-idx3-ubyte", 3),
    ):
        path = write_idx(tmp_path / name, np.full((count, 28, 28), count, np.uint8))
        write_idx(path.with_name(name.replace("images-idx3", "labels-idx1")), np.arange(count, dtype=np.uint8))
    source = open_source(str(tmp_path))
    assert len(source) == 4 and source.labels.values.tolist() == [0, 1, 2, 3]
    (note,) = source.notes
    assert len(open_source(note.rpartition("--source=")[2])) == 3
    for path in tmp_path.glob("train-*"):
        path.unlink()
    assert len(open_source(str(tmp_path))) == 3
    write_idx(tmp_path / "more-images-idx3-ubyte", np.zeros((1, 28, 28), np.uint8))
    with pytest.raises(UserError, match="--source=.*more-images"):
        open_source(str(tmp_path))


def test_lsun_database(tmp_path):
    path = tmp_path / "cat_val_lmdb"
    with lmdb.open(str(path), map_size=1 << 20) as database, database.begin(write=True) as transaction:
        for key, value in ((b"bb", 20), (b"aa", 10), (b"cc", None)):
            transaction.put(key, png(value=value) if value else b"no picture")
    source = pickle.loads(pickle.dumps(open_source(str(path))))  # as it is sent to a worker
    assert [np.asarray(source.picture(i))[0, 0, 0] for i in range(2)] == [10, 20]
    with pytest.raises(UserError, match="cc"):
        source.picture(2)


def test_builtin_digits_parts_are_disjoint_and_fixed():
    whole, train, test = (open_source(f"builtin:digits{part}") for part in ("", "-train", "-test"))
    assert (len(whole), len(train), len(test)) == (1797, 1297, 500)
    assert np.asarray(whole.picture(0)).shape == (16, 16) and whole.labels.class_names == list("0123456789")
    pixels = [{np.asarray(s.picture(i)).tobytes() for i in range(len(s))} for s in (train, test)]
    assert not pixels[0] & pixels[1]
    assert np.bincount(test.labels.values).min() >= 35, "every class is well represented"
    with pytest.raises(UserError, match="builtin:letters"):
        open_source("builtin:letters")


@pytest.mark.parametrize(
    "name", ["nothing.zip", "nothing", "cifar-10-python.tar.gz", "text.txt", "cifar-10-bad.tar.gz"]
)
def test_missing_and_unknown_sources_are_refused(name, tmp_path):
    (tmp_path / "text.txt").write_text("x")
    (tmp_path / "cifar-10-bad.tar.gz").write_text("x")
    with pytest.raises(UserError, match=name):
        open_source(str(tmp_path / name))
