"""Reading data sets: order, labels, subsets, the shared cache, threads and forks, and every kind of damage named."""

import io
import json
import multiprocessing
import pickle
import shutil
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.training.data.cache import CachedDataset, cached
from elucid.training.data.dataset import open_dataset

rng = np.random.default_rng(0)


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def noise(height=8, width=16, channels=3) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3)[: 2 + (channels == 3)], dtype=np.uint8)


def write(path, files: dict, labels=None, method=zipfile.ZIP_STORED, **extra):
    """A zip or folder of arrays (as PNG) or bytes, and dataset.json."""
    files = {name: data if isinstance(data, bytes) else encode(data) for name, data in files.items()}
    if labels is not None or extra:
        files["dataset.json"] = json.dumps({"labels": labels} | extra).encode()
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    return path


@pytest.fixture
def ten(tmp_path):
    """Ten RGB images of 16x8 and their pixels."""
    pixels = {f"0/{i}.png": noise() for i in range(10)}
    labels = [[name, i % 3] for i, name in enumerate(pixels)]
    return write(tmp_path / "ten.zip", pixels, labels), np.stack(list(pixels.values())).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, "folder"])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_come_in_the_order_of_sorted_names(tmp_path, method, channels):
    pixels = {name: noise(channels=channels) for name in ("b/1.png", "a/2.png", "a/10.png")}
    path = tmp_path / ("set" if method == "folder" else "set.zip")
    dataset = open_dataset(write(path, pixels, method=method if method != "folder" else 0))
    assert (dataset.name, len(dataset), dataset.resolution, dataset.channels) == ("set", 3, (8, 16), channels)
    for index, name in enumerate(["a/10.png", "a/2.png", "b/1.png"]):
        image = dataset.image(index)
        assert image.dtype == np.uint8 and image.flags.c_contiguous and image.flags.writeable
        np.testing.assert_array_equal(image, pixels[name].reshape(8, 16, channels).transpose(2, 0, 1))
    assert dataset.class_names == ["a", "b"] and dataset.label(0).shape == (0,), "labels are there, and not used"


def test_class_labels_are_one_hot(ten):
    dataset = open_dataset(ten[0], use_labels=True)
    assert dataset.label_dim == 3 and dataset.label(4).dtype == np.float32
    np.testing.assert_array_equal([dataset.label(i) for i in range(10)], np.eye(3)[np.arange(10) % 3])
    unused = open_dataset(ten[0])
    assert unused.label_dim == 0 and unused.has_labels and unused.raw_labels.tolist() == [i % 3 for i in range(10)]


def test_class_names_set_the_number_of_classes(tmp_path):
    path = write(tmp_path / "s.zip", {"a.png": noise()}, [["a.png", 1]], class_names=["x", "y", "z"])
    dataset = open_dataset(path, use_labels=True)
    assert dataset.class_names == ["x", "y", "z"] and dataset.label(0).tolist() == [0, 1, 0]


@pytest.mark.parametrize("label", [[0.25, -2.0, 1e-3], 0.75])
def test_vector_labels_are_not_truncated(tmp_path, label):
    dataset = open_dataset(write(tmp_path / "s.zip", {"a.png": noise()}, [["a.png", label]]), use_labels=True)
    np.testing.assert_array_equal(dataset.label(0), np.atleast_1d(np.float32(label)))


def test_a_subset_is_fixed_by_its_seed_and_keeps_all_classes(ten):
    path, pixels = ten
    subsets = [open_dataset(path, use_labels=True, max_size=4, seed=seed) for seed in (0, 0, 1)]
    names = [[dataset.image_name(i) for i in range(4)] for dataset in subsets]
    assert names[0] == names[1] == sorted(names[0]) and names[0] != names[2]
    assert subsets[0].label_dim == 3
    for i, name in enumerate(names[0]):
        number = int(name[2])
        np.testing.assert_array_equal(subsets[0].image(i), pixels[number])
        assert subsets[0].label(i).argmax() == number % 3
    assert subsets[0].fingerprint == subsets[1].fingerprint != subsets[2].fingerprint


def _images_of(dataset, queue):
    queue.put(np.stack([dataset.image(i) for i in range(len(dataset))]))


@pytest.mark.parametrize("kind", ["plain", "cached"])
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_other_processes_read_the_same(ten, tmp_path, kind, start):
    dataset = open_dataset(ten[0])
    dataset = cached(dataset, tmp_path / "cache", progress=False) if kind == "cached" else dataset
    context = multiprocessing.get_context(start)
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside torch's threads
        processes = [context.Process(target=_images_of, args=(dataset, queue)) for _ in range(2)]
        for process in processes:
            process.start()
    for _ in processes:
        np.testing.assert_array_equal(queue.get(timeout=60), ten[1])
    for process in processes:
        process.join()


def test_many_threads_read_the_same(ten):
    dataset = open_dataset(ten[0])
    with ThreadPoolExecutor(8) as pool:
        for index, image in zip(list(range(10)) * 20, pool.map(dataset.image, list(range(10)) * 20), strict=True):
            np.testing.assert_array_equal(image, ten[1][index])


def test_the_cache_is_built_once_and_shared(ten, tmp_path):
    path, pixels = ten
    first = cached(open_dataset(path, use_labels=True), tmp_path / "cache", progress=False)
    assert isinstance(first, CachedDataset) and not first.array.flags.writeable
    np.testing.assert_array_equal(first.array, pixels)
    np.testing.assert_array_equal(first.image(3), pixels[3])
    assert first.label(4).tolist() == [0, 1, 0] and (first.name, len(first)) == ("ten", 10)
    before = first.cache_file.stat().st_mtime_ns
    again = cached(open_dataset(path), tmp_path / "cache", progress=False)
    assert again.cache_file == first.cache_file and again.cache_file.stat().st_mtime_ns == before
    assert len(pickle.dumps(first)) < 10_000, "the file's name is sent, not its content"
    names = {first.cache_file.name, first.cache_file.with_suffix(".lock").name, "room.lock"}
    assert {file.name for file in (tmp_path / "cache").iterdir()} == names


def test_a_damaged_cache_is_built_again(ten, tmp_path):
    first = cached(open_dataset(ten[0]), tmp_path / "cache", progress=False)
    data = first.cache_file.read_bytes()
    del first
    file = next((tmp_path / "cache").glob("*.npy"))
    file.write_bytes(data[:-100])
    np.testing.assert_array_equal(cached(open_dataset(ten[0]), tmp_path / "cache", progress=False).array, ten[1])


def test_a_changed_data_set_has_another_cache(ten, tmp_path):
    path, _ = ten
    before = open_dataset(path).fingerprint
    write(path, {"a.png": noise()})
    assert open_dataset(path).fingerprint != before
    folder = write(tmp_path / "folder", {"a.png": noise()})
    before = open_dataset(folder).fingerprint
    write(folder, {"a.png": noise()})
    assert open_dataset(folder).fingerprint != before


def test_without_room_the_data_set_stays_uncached(ten, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10 * 8 * 16 * 3 * 2 - 1))
    with pytest.warns(UserWarning, match="not cached.*free"):
        dataset = cached(open_dataset(ten[0]), tmp_path / "cache", progress=False)
    np.testing.assert_array_equal(dataset.image(2), ten[1][2])
    assert not list((tmp_path / "cache").glob("*.npy"))


def test_a_broken_image_leaves_no_cache(ten, tmp_path):
    folder = write(tmp_path / "folder", {"a.png": noise(), "b.png": encode(noise(64, 64))[:2000]})
    with pytest.raises(UserError):
        cached(open_dataset(folder, check=False), tmp_path / "cache", progress=False)
    with pytest.raises(UserError, match="b.png"):
        cached(open_dataset(write(tmp_path / "g", {"b.png": encode(noise(64, 64))[:2000]})), tmp_path / "cache")
    assert not [file for file in (tmp_path / "cache").iterdir() if file.suffix != ".lock"]


def test_a_folder_of_jpegs_and_a_folder_inside_a_zip(tmp_path):
    photo = Image.effect_noise((32, 16), 20).convert("RGB")
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG")
    path = write(
        tmp_path / "set.zip", {"train/a.jpg": buffer.getvalue(), "train/b.png": noise(16, 32), "x.png": noise()}
    )
    dataset = open_dataset(path / "train")
    assert len(dataset) == 2 and dataset.resolution == (16, 32) and dataset.name == "set-train"
    np.testing.assert_array_equal(dataset.image(0).transpose(1, 2, 0), np.asarray(Image.open(buffer)))


# Bad input: each line names the file and the mend.


def broken(tmp_path, kind: str):
    """A path that must be refused, and what the message must name."""
    good = {"a.png": noise(), "b.png": noise()}
    zipped = tmp_path / "s.zip"
    if kind == "missing":
        return tmp_path / "nothing.zip", "nothing.zip: no such file"
    if kind == "no zip":
        zipped.write_bytes(b"text")
        return zipped, "s.zip is not a valid or complete zip"
    if kind == "half a zip":
        zipped.write_bytes(write(zipped, good).read_bytes()[:-40])
        return zipped, "s.zip is not a valid or complete zip"
    if kind == "empty zip":
        return write(zipped, {}), "s.zip contains no images"
    if kind == "empty folder":
        (tmp_path / "s").mkdir()
        return tmp_path / "s", "s contains no images"
    if kind == "mixed sizes":
        return write(zipped, good | {"c.png": noise(8, 8)}), r"a.png is 16x8, c.png is 8x8.*--resolution"
    if kind == "mixed modes":
        return write(zipped, good | {"c.png": noise(channels=1)}), r"a.png is RGB, c.png is gray"
    if kind == "palette":
        picture = io.BytesIO()
        Image.fromarray(noise()).quantize(4).save(picture, "PNG")
        return write(zipped, {"p.png": picture.getvalue()}), r"p.png.* P; convert .*dataset_tool"
    if kind == "alpha":
        return write(zipped, {"a.png": encode(np.zeros((8, 8, 4), dtype=np.uint8))}), r"a.png.*RGBA.*dataset_tool"
    if kind == "text as png":
        return write(zipped, {"a.png": noise(), "b.png": b"text"}), r"b.png is empty, corrupt or not an image"
    raise KeyError(kind)


@pytest.mark.parametrize(
    "kind",
    "missing,no zip,half a zip,empty zip,empty folder,mixed sizes,mixed modes,palette,alpha,text as png".split(","),
)
def test_bad_data_sets_are_refused_at_opening(tmp_path, kind):
    path, message = broken(tmp_path, kind)
    with pytest.raises(UserError, match=message):
        open_dataset(path)


@pytest.mark.parametrize("check", [True, False])
def test_a_truncated_png_is_named_when_read(tmp_path, check):
    folder = write(tmp_path / "s", {"a.png": noise(64, 64), "b.png": encode(noise(64, 64))[:5000]})
    dataset = open_dataset(folder, check=check)
    with pytest.raises(UserError, match=r"s/b.png is corrupt or truncated"):
        dataset.image(1)


def test_a_flipped_bit_in_a_zip_is_found_when_read(ten):
    path, _ = ten
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 30] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"ten.zip/0/0.png is damaged"):
        open_dataset(path).image(0)


def test_without_check_another_size_is_found_when_read(tmp_path):
    dataset = open_dataset(write(tmp_path / "s.zip", {"a.png": noise(), "b.png": noise(8, 8)}), check=False)
    with pytest.raises(UserError, match="b.png is 8x8"):
        dataset.image(1)


@pytest.mark.parametrize(
    ("labels", "extra", "message"),
    [
        ([["a.png", -1], ["b.png", 0]], {}, r"label -1 of a.png is out of range"),
        (
            [["a.png", 5], ["b.png", 0]],
            {"class_names": ["x", "y"]},
            r"label 5 of a.png is out of range for 2 class names",
        ),
        ([["a.png", 10**12], ["b.png", 0]], {}, r"out of range"),
        ([["a.png", 0], ["b.png", 0], ["gone.png", 1]], {}, r"1 missing images \(first: gone.png\)"),
        ([["a.png", 0], ["b.png", True]], {}, r"label of b.png is true"),
        ([["a.png", 0], ["b.png", "cat"]], {}, r'label of b.png is "cat"'),
        ([["a.png", [1, 2]], ["b.png", [1]]], {}, r"label of b.png has 1 numbers"),
        ([["a.png", [float("nan")]], ["b.png", [1]]], {}, r"label of a.png is \[NaN\]"),
        ([["a.png", 0], ["a.png", 1]], {}, r"a.png twice"),
        ([["a.png"]], {}, r"list of \[name, label\]"),
        ({"a.png": 0}, {}, r"list of \[name, label\]"),
        ([["a.png", 0], ["b.png", 0]], {"class_names": "xy"}, r"class_names must be a list"),
    ],
)
def test_bad_labels_are_refused(tmp_path, labels, extra, message):
    path = write(tmp_path / "s.zip", {"a.png": noise(), "b.png": noise()}, labels, **extra)
    with pytest.raises(UserError, match="dataset.json.*" + message):
        open_dataset(path)


def test_labels_wanted_but_absent(tmp_path):
    path = write(tmp_path / "s.zip", {"a.png": noise()})
    with pytest.raises(UserError, match="no labels.*`cond`=0"):
        open_dataset(path, use_labels=True)


@pytest.mark.parametrize("label", ["missing", "null"])
def test_images_without_a_label_are_counted_and_named(tmp_path, label):
    labels = [["a.png", 0]] + ([["b.png", None]] if label == "null" else [])
    path = write(tmp_path / "s.zip", {"a.png": noise(), "b.png": noise()}, labels)
    with pytest.raises(UserError, match=r"1 of 2 images.*first: b.png.*--unlabelled=drop"):
        open_dataset(path, use_labels=True)
    assert open_dataset(path).raw_labels.tolist() == [0, -1]


def test_a_description_that_is_no_json(tmp_path):
    path = write(tmp_path / "s.zip", {"a.png": noise(), "dataset.json": b"{"})
    with pytest.raises(UserError, match="dataset.json is not valid JSON"):
        open_dataset(path)
