"""Prepared data sets equal the reference's: pixels, names in the archive, labels, no compression."""

import io
import json
import zipfile

import numpy as np
import PIL
import pytest
from PIL import Image

from elucid.dnnlib.cli import Size
from elucid.preparation.convert import convert
from tests import vectors

PILLOW = int(PIL.__version__.partition(".")[0])

RUNS = [
    pytest.param(path, run, id=f"{path.stem}-{run['run']}")
    for path in vectors.cases("dataset/*")
    for run in json.loads(path.read_text())["runs"]
]


def convert_like(run, source, destination):
    """Call the library as `dataset_tool.py` would with the run's options."""
    options = dict(option.removeprefix("--").split("=") for option in run["options"])
    if "resolution" in options:
        options["resolution"] = Size().convert(options["resolution"], None, None)
    if "max-images" in options:
        options["max_images"] = int(options.pop("max-images"))
    return convert(str(source), destination, progress=False, **options)


@pytest.mark.parametrize(("path", "run"), RUNS)
def test_prepared_data_set_is_the_references(path, run, tmp_path):
    _, arrays = vectors.load(path)
    for key, pixels in arrays.items():
        if key.startswith("source:"):
            file = tmp_path / "source" / key.removeprefix("source:")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    convert_like(run, tmp_path / "source", tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        infos = archive.infolist()
        assert [info.filename for info in infos] == run["names"]
        assert [info.compress_type for info in infos] == run["compression"]
        assert json.loads(archive.read("dataset.json"))["labels"] == run["dataset_json"]["labels"]
        images = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in run["names"][:-1]]
    difference = np.abs(np.stack(images).astype(int) - arrays[f"{run['run']}:pixels"])
    assert difference.max() <= (0 if PILLOW >= 13 else 1)  # the vectors are Pillow 13's; 12 rounds otherwise
