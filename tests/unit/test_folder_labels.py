"""A folder per class is a labelled data set for training and verify, as it is for the conversion."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.preparation.sources import open_source
from elucid.preparation.verify import verify
from elucid.training.data.dataset import open_dataset


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def make_folder(path, names: list[str], **files: bytes):
    for name, data in ({name: png(index) for index, name in enumerate(names)} | files).items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def make_zip(path, names: list[str]):
    with zipfile.ZipFile(path, "w") as archive:
        for index, name in enumerate(names):
            archive.writestr(name, png(index))
    return path


PETS = ["dog/y.png", "cat/x.png", "cat/old/z.png", "dog/a.png"]


@pytest.mark.parametrize("make", [make_folder, make_zip])
@pytest.mark.parametrize("outer", ["", "pictures/"])
def test_folders_are_classes(make, outer, tmp_path):
    path = make(tmp_path / "set.zip", [outer + name for name in PETS])
    dataset = open_dataset(path, use_labels=True)
    assert (dataset.class_names, dataset.label_dim) == (["cat", "dog"], 2)
    for index in range(4):
        name = dataset.image_name(index).removeprefix(outer)
        assert dataset.image(index)[0, 0, 0] == PETS.index(name)
        assert dataset.class_names[dataset.label(index).argmax()] == name.split("/")[0]
    converted = open_source(str(path)).labels
    assert converted.class_names == dataset.class_names and np.array_equal(converted.values, dataset.raw_labels)
    lines = list(verify(path, progress=False).lines())
    assert "classes: 2" in lines and "  0 cat: 2" in lines and "  1 dog: 2" in lines


def test_a_subset_keeps_all_classes(tmp_path):
    dataset = open_dataset(make_folder(tmp_path / "set", PETS), use_labels=True, max_size=1)
    assert dataset.class_names == ["cat", "dog"] and dataset.label(0).shape == (2,)


@pytest.mark.parametrize(
    "names",
    [
        ["00000/img00000000.png", "00001/img00001000.png"],  # dataset_tool.py
        ["000000/000007.png", "012000/012345.png"],  # generate.py --subdirs
        ["00000/00000.png", "69000/69999.png"],  # FFHQ
        ["a.png", "b.png"],
    ],
)
def test_numbered_folders_and_none_are_no_classes(names, tmp_path):
    path = make_folder(tmp_path / "set", names)
    assert not open_dataset(path).has_labels and open_source(str(path)).labels is None
    with pytest.raises(UserError, match="no labels.*`cond`=0.*folder"):
        open_dataset(path, use_labels=True)


@pytest.mark.parametrize("names", [["0/1.png", "1/1.png"], ["00001/00001.png", "00002/00002.png"], ["00000/cat.png"]])
def test_classes_may_be_called_by_numbers(names, tmp_path):
    assert open_dataset(make_folder(tmp_path / "set", names)).class_names == sorted({n.split("/")[0] for n in names})


@pytest.mark.parametrize(
    ("labels", "expected"), [(None, None), ([["dog/y.png", 3]], [-1, -1, -1, 3])], ids=["without labels", "with labels"]
)
@pytest.mark.parametrize("outer", ["", "pictures/"])
def test_dataset_json_comes_before_folders(labels, expected, outer, tmp_path):
    description = {f"{outer}dataset.json": json.dumps({"labels": labels}).encode()}
    dataset = open_dataset(make_folder(tmp_path / "set", [outer + name for name in PETS], **description))
    assert dataset.class_names is None
    assert (None if dataset.raw_labels is None else dataset.raw_labels.tolist()) == expected


def test_images_outside_the_folders_have_no_label(tmp_path):
    path = make_folder(tmp_path / "set", [*PETS, "loose.png"])
    with pytest.raises(UserError, match=r"1 of 5 images.*first: loose.png"):
        open_dataset(path, use_labels=True)
    assert any("1 images have no label (first: loose.png)" in line for line in verify(path, progress=False).lines())
