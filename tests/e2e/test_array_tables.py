"""Training on one array of all samples, and what dataset_tool.py makes of it, agree with the files that it writes."""

import json

import numpy as np
import pytest

from elucid.training.data.dataset import open_dataset
from tests import scripts

VALUES = (280 + 20 * np.random.default_rng(0).normal(size=(24, 2, 8, 8))).astype(np.float32)
TRAIN = [*scripts.TINY, "--augment=0", "--batch=8", "--duration=0.000032", "--tick=0.032", "--nosubdir", "--cond=1"]


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))

    def run(script, *args):
        code, out, err = scripts.call(monkeypatch, capsys, script, *args)
        assert code == 0, err or out
        return out + err

    return run


def write_h5(path):
    with pytest.importorskip("h5py").File(path, "w") as file:
        file.create_dataset("fields", data=VALUES.transpose(0, 2, 3, 1), chunks=(1, 8, 8, 2), compression="gzip")
        file["labels"] = np.arange(24) % 3
        file["fields"].attrs["channel_names"] = ["u10", "t2m"]


def losses(folder):
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    return [line["Loss/loss"]["mean"] for line in lines]


def test_the_file_and_its_conversion_train_alike(tmp_path, call):
    write_h5(tmp_path / "fields.h5")
    out = call("dataset_tool.py", "--source=fields.h5", "--dest=fields.zip", "--axes=NHWC")
    assert "24 arrays of 8x8, 2 channels, float32" in out and "3 classes" in out and "t2m" in out
    converted = open_dataset(tmp_path / "fields.zip", arrays=True)
    for index in range(24):
        np.testing.assert_array_equal(converted.image(index), VALUES[index])
    call("train.py", "--data=fields.h5", "--outdir=direct", "--set=dataset.reader.axes=NHWC", *TRAIN)
    call("train.py", "--data=fields.zip", "--outdir=converted", *TRAIN)
    # The statistics are summed in another order.
    np.testing.assert_allclose(losses(tmp_path / "direct"), losses(tmp_path / "converted"), rtol=1e-4)
    encoders = [json.loads((tmp_path / f"{one}/training_options.json").read_text())["encoder"]
                for one in ("direct", "converted")]  # fmt: skip
    assert encoders[0]["channel_names"] == encoders[1]["channel_names"] == ["u10", "t2m"]
    np.testing.assert_allclose(encoders[0]["mean"], encoders[1]["mean"], rtol=1e-6)


def test_tiffs_train_and_convert(tmp_path, call):
    tifffile = pytest.importorskip("tifffile")
    for index, one in enumerate(VALUES):
        (tmp_path / f"scans/{'ab'[index % 2]}").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(tmp_path / f"scans/{'ab'[index % 2]}/{index:02d}.tif", one.astype("u2"))
    out = call("train.py", "--data=scans", "--outdir=run", *TRAIN)
    assert "8x8, 2 channels, 2 classes" in out
    out = call("dataset_tool.py", "--source=scans", "--dest=scans.zip")
    assert "24 arrays of 8x8, 2 channels, uint16" in out and "2 classes" in out
    converted = open_dataset(tmp_path / "scans.zip", arrays=True)
    order = [*range(0, 24, 2), *range(1, 24, 2)]
    for place, index in enumerate(order):
        np.testing.assert_array_equal(converted.image(place), VALUES[index].astype("u2"))
