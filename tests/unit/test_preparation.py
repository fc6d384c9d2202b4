"""Preparing a data set: whole or not at all, the same for any number of workers, with every label kept."""

import io
import json
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from elucid.commands import dataset_tool
from elucid.dnnlib.errors import UserError
from elucid.preparation import pool
from elucid.preparation.convert import convert
from elucid.preparation.sources import open_source
from elucid.preparation.verify import verify
from elucid.training.data.dataset import open_dataset

rng = np.random.default_rng(0)


def picture(width=16, height=16, mode="RGB", kind="PNG") -> bytes:
    shape = (height, width) if mode == "L" else (height, width, 3)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def make(tmp_path):
    """Write files below `source` and give its path."""

    def make(files: dict[str, bytes | str]) -> str:
        for name, data in files.items():
            file = tmp_path / "source" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data.encode() if isinstance(data, str) else data)
        return str(tmp_path / "source")

    return make


def prepare(source: str, destination, **options):
    return convert(source, destination, progress=False, **options)


def described(path) -> dict:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("dataset.json"))


def test_folder_and_zip_hold_the_same(make, tmp_path):
    source = make({"b/1.png": picture(), "a/2.png": picture(), "a/1.jpg": picture(kind="JPEG")})
    prepare(source, tmp_path / "out.zip")
    prepare(source, tmp_path / "out")
    one, other = (open_dataset(tmp_path / name, use_labels=True) for name in ("out.zip", "out"))
    assert one.class_names == other.class_names == ["a", "b"]
    for index in range(3):
        np.testing.assert_array_equal(one.image(index), other.image(index))
        np.testing.assert_array_equal(one.label(index), other.label(index))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.zip", "source"]


def start_workers_at_once(monkeypatch):
    for name in ("_PROBE", "_WORTHWHILE", "_START_UP"):
        monkeypatch.setattr(pool, name, 0.0)


@pytest.mark.parametrize("slot_bytes", [1 << 20, 4000])  # all in one chunk, and slots used many times
def test_any_number_of_workers_gives_the_same_bytes(make, tmp_path, monkeypatch, slot_bytes):
    start_workers_at_once(monkeypatch)
    monkeypatch.setattr(pool, "_SLOT_BYTES", slot_bytes)
    source = make({f"{i % 3}/{i:03}.png": picture(16 + i % 5, 20) for i in range(60)})
    for workers in (1, 2):
        prepare(source, tmp_path / f"{workers}.zip", resolution=(24, 16), workers=workers)
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


def test_a_slot_that_overflows_changes_nothing(make, tmp_path, monkeypatch):
    """Slots fit the first picture; larger ones after it take the other way home."""
    start_workers_at_once(monkeypatch)
    monkeypatch.setattr(pool, "_SLOT_BYTES", 1)
    source = make({f"{i}.png": picture(8 * (i + 1), 8) for i in range(6)})
    conversion = pool.Conversion(open_source(source), channels=3)
    made = [(index, size, bytes(png)) for index, (size, png) in pool.make_all(conversion, range(6), workers=2)]
    assert made == [(i, (8 * (i + 1), 8), b"".join(conversion.make(i)[1])) for i in range(6)]


@pytest.mark.parametrize("destination", ["out.zip", "out"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_corrupt_picture_is_named_and_nothing_is_left(make, tmp_path, monkeypatch, destination, workers):
    start_workers_at_once(monkeypatch)
    source = make({"a/1.png": picture(), "a/2.png": picture()[:200], "a/3.png": picture()})
    with pytest.raises(UserError, match="a/2.png"):
        prepare(source, tmp_path / destination, workers=workers)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_failure_leaves_an_older_data_set_alone(make, tmp_path):
    (tmp_path / "out.zip").write_bytes(b"old")
    with pytest.raises(UserError):
        prepare(make({"1.png": b"no picture"}), tmp_path / "out.zip")
    assert (tmp_path / "out.zip").read_bytes() == b"old"


def test_mixed_sizes_are_named(make, tmp_path):
    source = make({"1.png": picture(16, 16), "2.png": picture(24, 16)})
    with pytest.raises(UserError, match=r"1.png is 16x16.*2.png is 24x16.*`resolution`"):
        prepare(source, tmp_path / "out.zip")
    assert prepare(source, tmp_path / "out.zip", resolution=(16, 8)).size == (16, 8)


def test_sides_must_be_divisible_by_8(make, tmp_path):
    source = make({"1.png": picture(20, 16)})
    with pytest.raises(UserError, match=r"20x16.*`resolution`=\d+x16"):
        prepare(source, tmp_path / "out.zip")
    with pytest.raises(UserError, match="`resolution` is 12x16"):
        prepare(source, tmp_path / "out.zip", resolution=(12, 16))


def test_a_gray_source_stays_gray_and_a_mixed_one_goes_rgb(make, tmp_path):
    source = make({"1.png": picture(mode="L"), "2.png": picture(mode="L")})
    prepare(source, tmp_path / "gray.zip")
    prepare(source, tmp_path / "rgb.zip", channels="rgb")
    make({"3.png": picture()})
    prepare(source, tmp_path / "mixed.zip")
    prepare(source, tmp_path / "forced.zip", channels="gray")
    channels = {path.stem: open_dataset(path).channels for path in tmp_path.glob("*.zip")}
    assert channels == {"gray": 1, "rgb": 3, "mixed": 3, "forced": 1}


def test_unlabelled_images_are_reported_and_can_be_dropped(make, tmp_path):
    source = make({"a/1.png": picture(), "b/1.png": picture(), "stray.png": picture()})
    report = prepare(source, tmp_path / "keep.zip")
    assert described(tmp_path / "keep.zip")["labels"] == [["00000/img00000000.png", 0], ["00000/img00000001.png", 1]]
    assert report.unlabelled == ["00000/img00000002.png"] and any("1 images have no label" in x for x in report.lines())
    with pytest.raises(UserError, match="1 of 3 images.*img00000002.*--unlabelled=drop"):
        open_dataset(tmp_path / "keep.zip", use_labels=True)
    prepare(source, tmp_path / "drop.zip", unlabelled="drop")
    assert len(open_dataset(tmp_path / "drop.zip", use_labels=True)) == 2


def test_labels_survive_a_second_conversion(make, tmp_path):
    vectors = [["1.png", [0.25, -3.5]], ["2.png", [1e-3, 7]]]
    source = make({"1.png": picture(), "2.png": picture(), "dataset.json": json.dumps({"labels": vectors})})
    prepare(source, tmp_path / "one.zip")
    prepare(str(tmp_path / "one.zip"), tmp_path / "two.zip", resolution=(8, 8))
    dataset = open_dataset(tmp_path / "two.zip", use_labels=True)
    np.testing.assert_allclose([dataset.label(i) for i in range(2)], [[0.25, -3.5], [1e-3, 7]])


def test_a_set_without_labels_stays_without(make, tmp_path):
    prepare(make({"1.png": picture()}), tmp_path / "one.zip")
    prepare(str(tmp_path / "one.zip"), tmp_path / "two.zip")
    assert described(tmp_path / "two.zip")["labels"] is None
    assert not open_dataset(tmp_path / "two.zip").has_labels


def test_pictures_too_small_for_the_wide_crop_are_reported(make, tmp_path):
    source = make({"a/small.png": picture(8, 8), "b/wide.png": picture(40, 30)})
    report = prepare(source, tmp_path / "out.zip", transform="center-crop-wide", resolution=(32, 16))
    assert len(report.skipped) == 1 and "a/small.png" in report.skipped[0]
    assert described(tmp_path / "out.zip")["labels"] == [["00000/img00000001.png", 1]]


@pytest.mark.parametrize("destination", ["full", "file.tar.gz", "source"])
def test_destinations_that_would_overwrite_are_refused(make, tmp_path, destination):
    source = make({"1.png": picture()})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_text("mine")
    with pytest.raises(UserError, match="`dest`"):
        prepare(source, tmp_path / destination)
    assert (tmp_path / "full" / "thing").read_text() == "mine"


def test_a_zip_is_not_replaced_by_a_folder_in_it(make, tmp_path):
    source = make({"in/1.png": picture(), "out/2.png": picture()})
    archive = tmp_path / "set.zip"
    prepare(source, archive)
    before = archive.read_bytes()
    with pytest.raises(UserError, match="`dest`.*would replace `source`"):
        prepare(f"{archive}/00000", archive)
    assert archive.read_bytes() == before


def test_classes_without_images_are_reported(make, tmp_path):
    source = make({"a/1.png": picture(), "b/2.png": picture(), "c/3.png": picture()})
    assert prepare(source, tmp_path / "all.zip").empty_classes() == []
    report = prepare(source, tmp_path / "first.zip", max_images=1)
    assert report.empty_classes() == ["b", "c"] and "2 classes have no images here (b, c)" in "\n".join(report.lines())


def test_verify_prints_what_numpy_says(make, tmp_path):
    files = {f"{'ab'[i % 2]}/{i}.png": picture() for i in range(5)}
    prepare(make(files), tmp_path / "out.zip")
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(data))) for data in files.values()]).reshape(-1, 3)
    verdict = verify(tmp_path / "out.zip", progress=False)
    np.testing.assert_allclose(verdict.mean, pixels.mean(0), atol=1e-9)
    np.testing.assert_allclose(verdict.std, pixels.std(0), atol=1e-9)
    text = "\n".join(verdict.lines())
    assert "size: 16x16" in text and "classes: 2" in text and "0 a: 3" in text and "1 b: 2" in text


def test_verify_finds_a_flipped_bit_and_a_cut_file(make, tmp_path):
    prepare(make({f"{i}.png": picture() for i in range(4)}), tmp_path / "out")
    flipped, cut = tmp_path / "out/00000/img00000001.png", tmp_path / "out/00000/img00000003.png"
    data = bytearray(flipped.read_bytes())
    data[300] ^= 1
    flipped.write_bytes(data)
    cut.write_bytes(cut.read_bytes()[:-30])
    with pytest.raises(UserError, match="2 of 4 images are bad.*img00000001.*img00000003"):
        verify(tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dest=x.zip"], "--source"),
        (["--source=builtin:digits"], "--dest"),
        (["--source=builtin:digits", "--dest=x.zip", "--resolution=16"], "--resolution"),
        (["--source=builtin:digits", "--dest=x.zip", "--colour=1"], "--colour"),
        (["verify"], "--source"),
    ],
)
def test_command_line_mistakes_name_the_option(arguments, message):
    result = CliRunner().invoke(dataset_tool.main, arguments)
    assert result.exit_code == 2 and message in result.output


def test_the_commands_of_the_demo(tmp_path):
    path = str(tmp_path / "digits.zip")
    result = CliRunner().invoke(dataset_tool.main, ["--source=builtin:digits", f"--dest={path}", "--max-images=20"])
    assert result.exit_code == 0 and "20 images of 16x16, gray" in result.output
    result = CliRunner().invoke(dataset_tool.main, ["verify", f"--source={path}"])
    assert result.exit_code == 0 and "classes: 10" in result.output
