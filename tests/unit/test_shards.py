"""Data sets as shards: what is written is what is read, others read it too, and what is wrong is named."""

import hashlib
import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.preparation.shards import shard
from elucid.training.config.data import open_training_data, read_dataset
from elucid.training.config.latents import array_encoder
from elucid.training.config.settings import DataOptions
from elucid.training.data import npy
from elucid.training.data.dataset import open_dataset
from elucid.training.data.statistics import statistics
from elucid.training.data.streaming.dataset import ShardDataset
from elucid.training.data.streaming.description import Description
from elucid.training.data.streaming.sources import is_sharded
from tests import shards


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return shards.pictures(tmp_path_factory.mktemp("source") / "pictures")


@pytest.fixture(scope="module")
def written(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "shards"
    shards.write(source, folder)
    return folder


def assert_same(found, original, order):
    assert len(found) == len(order)
    for index, place in enumerate(order):
        np.testing.assert_array_equal(found.image(index), original.image(int(place)))
        np.testing.assert_array_equal(found.label(index), original.label(int(place)))
        assert found.encoded(index) == original.encoded(int(place))


def test_images_and_labels_are_those_of_the_source(source, written):
    found, original = ShardDataset(written, use_labels=True), open_dataset(source, use_labels=True)
    assert_same(found, original, np.random.default_rng(0).permutation(60))
    assert found.class_names == list(shards.CLASSES) and found.class_counts == [30, 30]
    assert (found.label_dim, found.channels, found.resolution) == (2, 1, (8, 8))
    assert found.shard_sizes == [4] * 15 and statistics(found) == statistics(original)
    assert ShardDataset(written).label_dim == 0 and ShardDataset(written).has_labels


def test_the_order_of_the_source_may_be_kept(source, tmp_path):
    shards.write(source, tmp_path / "kept", shuffle=False)
    assert_same(ShardDataset(tmp_path / "kept"), open_dataset(source), np.arange(60))


def test_a_folder_with_shards_is_recognised(source, written):
    for path in (written, f"{written}/", written / "shards.json"):
        assert isinstance(read_dataset(DataOptions(str(path))), ShardDataset)
    assert not isinstance(read_dataset(DataOptions(str(source))), ShardDataset)
    for path in (written, "s3://bucket/images.zip"):
        with pytest.raises(UserError, match=f"{path}.*in shards"):
            open_dataset(path)


def test_a_description_in_the_folder_where_one_is(written, monkeypatch):
    monkeypatch.chdir(written)
    for path in (".", "shards.json"):
        assert is_sharded(path) and len(ShardDataset(path)) == 60


def test_a_random_part(written):
    whole, part = ShardDataset(written, use_labels=True), ShardDataset(written, use_labels=True, max_size=17, seed=3)
    chosen = np.sort(np.random.RandomState(3).permutation(60)[:17])
    assert_same(part, whole, chosen)
    assert sum(part.shard_sizes) == 17 and len(part.shard_sizes) == len(whole.shard_sizes)
    ends = np.cumsum(part.shard_sizes)
    for index in range(17):
        number = int(np.searchsorted(ends, index, side="right"))
        assert part.image_name(index).startswith(f"shard-{number:06d}.tar/")


def test_pythons_tarfile_reads_shards(written):
    names, contents = [], {}
    for path in sorted(written.glob("*.tar")):
        with tarfile.open(path) as tar:
            names += tar.getnames()
            contents |= {member.name: tar.extractfile(member).read() for member in tar}
    assert names == [f"{index:09d}{suffix}" for index in range(60) for suffix in (".png", ".cls")]
    found = ShardDataset(written, use_labels=True)
    assert all(int(contents[f"{index:09d}.cls"]) == found.label(index).argmax() for index in range(60))


def test_webdataset_reads_shards(written):
    webdataset = pytest.importorskip("webdataset")
    paths = [str(path) for path in sorted(written.glob("*.tar"))]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False, empty_check=False))
    found = ShardDataset(written, use_labels=True)
    assert len(samples) == 60
    for index, sample in enumerate(samples):
        assert sample["png"] == found.encoded(index) and int(sample["cls"]) == found.label(index).argmax()


def test_shards_of_webdatasets_own_writer_are_read(written, tmp_path):
    """Only the description is this program's; members of a sample come in another order there."""
    webdataset = pytest.importorskip("webdataset")
    found = ShardDataset(written, use_labels=True)
    about = json.loads((written / "shards.json").read_text())
    with webdataset.TarWriter(str(tmp_path / "theirs.tar")) as sink:
        for index in range(20):
            sample = {"__key__": f"{index:06d}", "cls": int(found.label(index).argmax()), "png": found.encoded(index)}
            sink.write(sample)
    data = (tmp_path / "theirs.tar").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    about["shards"] = [{"name": "theirs.tar", "samples": 20, "bytes": len(data), "sha256": digest}]
    (tmp_path / "shards.json").write_text(json.dumps(about))
    theirs = ShardDataset(tmp_path, use_labels=True)
    for index in range(20):
        assert theirs.encoded(index) == found.encoded(index)
        np.testing.assert_array_equal(theirs.label(index), found.label(index))


def test_vectors_are_labels_and_missing_ones_are_refused(source, tmp_path):
    names = [path.relative_to(source).as_posix() for path in sorted(source.rglob("*.png"))]
    copy = shutil.copytree(source, tmp_path / "pictures")
    pairs = [[name, [index / 7, -1.5]] for index, name in enumerate(names)]
    (copy / "dataset.json").write_text(json.dumps({"labels": pairs}))
    shards.write(copy, tmp_path / "vectors")
    found = ShardDataset(tmp_path / "vectors", use_labels=True)
    assert_same(found, open_dataset(copy, use_labels=True), np.random.default_rng(0).permutation(60))
    assert found.label_dim == 2 and found.class_counts is None

    (copy / "dataset.json").write_text(json.dumps({"labels": pairs[1:]}))
    shards.write(copy, tmp_path / "lacking")
    assert len(ShardDataset(tmp_path / "lacking")) == 60
    with pytest.raises(UserError, match="1 images .*`cond`=1"):
        ShardDataset(tmp_path / "lacking", use_labels=True)

    (copy / "dataset.json").write_text('{"labels": null}')
    shards.write(copy, tmp_path / "none")
    with pytest.raises(UserError, match="no labels.*`cond`=1"):
        ShardDataset(tmp_path / "none", use_labels=True)


@pytest.mark.parametrize("dtype", ["uint16", "float16", "float32"])
def test_arrays_have_their_statistics_in_the_description(dtype, tmp_path):
    rng = np.random.default_rng(1)
    fields = (rng.normal(size=(30, 5, 1, 6)) * np.arange(1, 6)[:, None, None] + 100).astype(dtype)
    (tmp_path / "fields").mkdir()
    for index, field in enumerate(fields):
        (tmp_path / "fields" / f"{index:02d}.npy").write_bytes(npy.to_npy(field))
    report = shard(str(tmp_path / "fields"), tmp_path / "shards", shard_mb=0.02, shuffle=False, progress=False)
    found = ShardDataset(tmp_path / "shards")
    assert len(report.description.shards) > 1 and found.kind == "arrays" and found.encoder is None
    for index in (0, 13, 29):
        np.testing.assert_array_equal(found.image(index), fields[index])
    assert found.image(0).dtype == dtype
    rows = fields.astype(np.float64).transpose(1, 0, 2, 3).reshape(5, -1)
    encoder = array_encoder({"name": "rgb"}, found)
    np.testing.assert_allclose(encoder["mean"], rows.mean(1), rtol=1e-12)
    np.testing.assert_allclose(encoder["std"], rows.std(1), rtol=1e-9)
    np.testing.assert_allclose(statistics(found, encoder={**encoder, "final_std": 0.5}), (0, 0.5), atol=1e-9)


def test_a_table_is_written_as_arrays(tmp_path):
    fields = np.random.default_rng(1).normal(size=(12, 3, 4, 5)).astype(np.float32)
    np.save(tmp_path / "fields.npy", fields)
    shard(str(tmp_path / "fields.npy"), tmp_path / "shards", progress=False)
    found = ShardDataset(tmp_path / "shards")
    for index, place in enumerate(np.random.default_rng(0).permutation(12)):
        np.testing.assert_array_equal(found.image(index), fields[place])


def test_maps_beside_images_have_the_same_order(source, tmp_path):
    for name, shuffle in (("images", True), ("maps", True), ("kept", False)):
        shards.write(source, tmp_path / name, shuffle=shuffle)
    data = open_training_data(DataOptions(str(tmp_path / "images"), cond_images=str(tmp_path / "maps")))
    chosen = np.array([3, 50, 17])
    np.testing.assert_array_equal(data.maps.read(chosen), np.stack([data.image(index) for index in chosen]))
    for path in (source, tmp_path / "kept"):
        with pytest.raises(UserError, match="cond_images"):
            open_training_data(DataOptions(str(tmp_path / "images"), cond_images=str(path)))
    data = open_training_data(DataOptions(str(tmp_path / "kept"), cond_images=str(source)))
    np.testing.assert_array_equal(data.maps.read(chosen), np.stack([data.image(index) for index in chosen]))


def test_latents_keep_their_encoder(tmp_path):
    rng = np.random.default_rng(1)
    (tmp_path / "latents").mkdir()
    for index in range(9):
        moments = np.concatenate([rng.normal(size=(4, 2, 2)), rng.uniform(0.1, 1, (4, 2, 2))]).astype(np.float32)
        (tmp_path / "latents" / f"{index}.npy").write_bytes(npy.to_npy(moments))
    shard(str(tmp_path / "latents"), tmp_path / "unnamed", progress=False)
    original, found = open_dataset(tmp_path / "latents", latents=True), ShardDataset(tmp_path / "unnamed")
    assert found.encoder == original.encoder and found.encoder["sha256"] is None and found.channels == 8
    encoder = {"name": "vae", "model": "some/vae", "scale": 0.2, "sha256": "ab" * 32}
    (tmp_path / "latents" / "dataset.json").write_text(json.dumps({"labels": None, "encoder": encoder}))
    shard(str(tmp_path / "latents"), tmp_path / "named", progress=False)
    original, found = open_dataset(tmp_path / "latents", latents=True), ShardDataset(tmp_path / "named")
    assert found.encoder == original.encoder == encoder and found.kind == "latents"
    np.testing.assert_allclose(statistics(found), statistics(original), rtol=1e-12)


def test_sizes_of_shards(source, tmp_path):
    for name, megabytes, most in (("all", 64, 64e6), ("some", 0.0512, 51200)):
        shard(str(source), tmp_path / name, shard_mb=megabytes, progress=False)
        assert all(path.stat().st_size <= most for path in (tmp_path / name).glob("*.tar"))
    assert len(list((tmp_path / "all").glob("*.tar"))) == 1
    report = shard(str(source), tmp_path / "one", shard_mb=1e-6, progress=False)
    assert report.description.sizes == [1] * 60, "a shard has one image at least"


@pytest.mark.parametrize(
    "name, options, wanted",
    [
        ("x.zip", {}, "`dest`.*folder"),
        ("full", {}, "`dest`.*not an empty folder"),
        ("x", {"shard_mb": 0}, "`shard_mb`=0"),
    ],
)
def test_what_cannot_be_written_is_refused(name, options, wanted, source, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UserError, match=wanted):
        shard(str(source), tmp_path / name, **options)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full"]


def test_an_image_that_cannot_be_read_leaves_no_shards(source, tmp_path):
    copy = shutil.copytree(source, tmp_path / "pictures")
    (copy / "cat" / "030.png").write_bytes((copy / "cat" / "030.png").read_bytes()[:50])
    with pytest.raises(UserError, match=r"030\.png"):
        shards.write(copy, tmp_path / "shards")
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


@pytest.fixture
def copy(written, tmp_path):
    return shutil.copytree(written, tmp_path / "copy")


def read_all(folder) -> str:
    with pytest.raises(UserError) as error:
        data = ShardDataset(folder, use_labels=True)
        for index in range(len(data)):
            data.image(index), data.label(index)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_shards_that_are_missing_or_damaged_are_named(copy):
    path = copy / "shard-000003.tar"
    whole = path.read_bytes()
    for place in (10, 700, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert f"{path} is damaged" in read_all(copy)
    path.write_bytes(whole[:-512])
    assert f"{path} is damaged" in read_all(copy)
    path.unlink()
    assert f"{path} cannot be read" in read_all(copy)


def tar_of(*files: tuple[str, bytes], format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def picture(size=(8, 8), mode="L") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 1024,
        tar_of(("0.png", picture())),
        tar_of(("0.png", picture()), ("0.cls", b"2"), ("1.png", picture()), ("1.cls", b"0")),
        tar_of(("0.png", picture()), ("0.cls", b"-1"), ("1.png", picture()), ("1.cls", b"0")),
        tar_of(("0.png", picture()), ("0.cls", b"cat"), ("1.png", picture()), ("1.cls", b"0")),
        tar_of(("0.png", picture()), ("0.cls", b"1"), ("1.png", picture(mode="RGB")), ("1.cls", b"0")),
        tar_of(("0.png", picture()), ("0.cls", b"1"), ("1.png", picture((8, 16))), ("1.cls", b"0")),
        tar_of(("0.png", picture()), ("0.cls", b"1"), ("1.png", b"no picture"), ("1.cls", b"0")),
        tar_of(("0.png", picture()), ("0.cls", b"1"), ("x" * 200 + ".txt", b""), format=tarfile.PAX_FORMAT),
    ],
    ids=["no tar", "too few", "class 2", "class -1", "class name", "colour", "size", "no picture", "no image"],
)
def test_shards_that_hold_something_else_are_named(data, copy):
    about = json.loads((copy / "shards.json").read_text())
    (copy / "odd.tar").write_bytes(data)
    digest = hashlib.sha256(data).hexdigest()
    about["shards"] = [{"name": "odd.tar", "samples": 2, "bytes": len(data), "sha256": digest}]
    (copy / "shards.json").write_text(json.dumps(about))
    assert "odd.tar" in read_all(copy)


@pytest.mark.parametrize(
    "place, value",
    [
        ("format", "other"),
        ("version", 2),
        ("version", None),
        ("resolution", [8]),
        ("resolution", [8, 0]),
        ("resolution", "8x8"),
        ("channels", True),
        ("channels", 2**60),
        ("dtype", "object of no type"),
        ("total", [1e400]),
        ("squares", []),
        ("shards", []),
        ("shards", None),
        ("shards", [{"name": "../secret.tar", "samples": 1, "bytes": 1, "sha256": "0" * 64}]),
        ("shards", [{"name": "a.tar", "samples": -1, "bytes": 1, "sha256": "0" * 64}]),
        ("shards", [{"name": "a.tar", "samples": 1, "bytes": 1, "sha256": "x"}]),
        ("shards", [{"name": "a.tar", "samples": 1, "bytes": 1, "sha256": "0" * 64}] * 2),
        ("labels", {"kind": "words", "dim": 2, "missing": 0, "counts": None}),
        ("labels", {"kind": "classes", "dim": 3, "missing": 0, "counts": [1, 2]}),
        ("labels", 7),
        ("class_names", ["one"]),
        ("encoder", {"name": "vae"}),
        ("encoder", 7),
    ],
)
def test_a_damaged_description_is_named(place, value, copy):
    about = json.loads((copy / "shards.json").read_text())
    about[place] = value
    (copy / "shards.json").write_text(json.dumps(about))
    assert str(copy / "shards.json") in read_all(copy)


def test_a_description_reads_what_it_writes(written):
    text = (written / "shards.json").read_bytes()
    about = Description.from_json(text, "x")
    assert about.to_json() == text and about.bytes == sum(path.stat().st_size for path in written.glob("*.tar"))
    for cut in (0, 1, len(text) // 2, len(text) - 1):
        with pytest.raises(UserError, match="^x "):
            Description.from_json(text[:cut], "x")
