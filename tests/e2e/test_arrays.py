"""Arrays of any number of channels, from files to samples in their own units."""

import json

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

import elucid
from elucid.training.config.data import open_training_data
from elucid.training.config.settings import DataOptions
from elucid.training.encoders.arrays import Arrays
from tests import scripts

MEAN = np.array([0, 280, 5e4, 0.02, -7], dtype=np.float64)[:, None, None]
STD = np.array([1, 20, 1000, 0.01, 5], dtype=np.float64)[:, None, None]
TRAIN = [*scripts.TINY, "--augment=0", "--batch=8", "--duration=0.000064", "--tick=0.032", "--nosubdir"]


def fields(count: int, height: int = 8, width: int = 12, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(count, 5, height, width))
    return (MEAN + STD * noise).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """40 fields as files of their own, and a run on them."""
    path = tmp_path_factory.mktemp("arrays")
    (path / "raw").mkdir()
    for index, field in enumerate(fields(40)):
        np.save(path / f"raw/{index:04d}.npy", field)
    return path


@pytest.fixture
def call(folder, monkeypatch, capsys):
    return scripts.caller(folder, monkeypatch, capsys)


@pytest.fixture
def run(folder, call):
    """The folder of a run on the converted fields."""
    if not (folder / "run").exists():
        named = ["--channel-names=a,b,c,d,e", "--units=1,K,Pa,1,m/s"]
        call("dataset_tool.py", "--source=raw", "--dest=fields.zip", *named)
        call("train.py", "--data=fields.zip", "--outdir=run", *TRAIN)
    return folder / "run"


def test_statistics_go_from_the_data_set_into_the_snapshot(run, call, folder):
    options = json.loads((run / "training_options.json").read_text())
    encoder, data = options["encoder"], fields(40).astype(np.float64)
    assert np.allclose(encoder["mean"], data.mean((0, 2, 3))) and np.allclose(encoder["std"], data.std((0, 2, 3)))
    assert encoder["name"] == "arrays" and encoder["dtype"] == "float32" and encoder["channel_names"][2] == "c"
    assert "channels: 5 (float32)" in (said := call("dataset_tool.py", "verify", "--source=fields.zip"))
    assert said.count("Pa") == 2 and "all arrays and labels are valid" in said
    data = elucid.datasets.open(folder / "fields.zip")
    assert data.image(3).dtype == np.float32 and np.array_equal(data.image(3), fields(40)[3])


def test_samples_are_in_the_data_s_own_units(run, call, folder):
    said = call("generate.py", "--network=run", "--outdir=out", "--seeds=0-15", "--steps=3", "--npz=all.npz",
                "--grid=grid.png", "--colormap=balance", "--device=cpu")  # fmt: skip
    assert "16 images generated" in said
    samples = np.stack([np.load(path) for path in sorted((folder / "out").glob("*.npy"))])
    assert samples.shape == (16, 5, 8, 12) and samples.dtype == np.float32
    away = np.abs(samples.mean((0, 2, 3)) - MEAN.ravel()) / STD.ravel()
    assert away.max() < 1.5, "an untrained network gives about the mean"
    assert np.array_equal(np.load(folder / "all.npz")["samples"], samples)
    assert np.asarray(Image.open(folder / "grid.png")).ndim == 3
    again = elucid.load(run, device="cpu").sample([3, 5], steps=3)
    assert elucid.load(run, device="cpu").pictures(again, "heat", [0, 2]).shape == (2, 3, 8, 25)
    assert isinstance(again, torch.Tensor) and np.array_equal(again.numpy(), samples[[3, 5]])
    assert elucid.datasets.open(folder / "out").arrays["units"][1] == "K", "samples are a data set of arrays"
    assert "0 images generated" in call("generate.py", "--network=run", "--outdir=out", "--seeds=0-15", "--steps=3",
                                        "--device=cpu")  # fmt: skip
    other = ["--network=run", "--outdir=out", "--seeds=0", "--steps=4", "--device=cpu"]
    assert "other options" in call("generate.py", *other, code=2)


def test_pictures_of_chosen_channels(run, call, folder):
    flags = ["--network=run", "--outdir=shown", "--seeds=0-1", "--steps=2", "--format=png", "--device=cpu"]
    call("generate.py", *flags, "--channels=1,4", "--colormap=heat")
    assert Image.open(folder / "shown/000001.png").size == (25, 8), "two channels and a line between"
    assert "--channels=7" in call("generate.py", *flags, "--channels=7", "--overwrite", code=2)
    assert "--colormap=zebra" in call("generate.py", *flags, "--colormap=zebra", "--overwrite", code=2)


def test_a_run_goes_on_with_the_same_numbers(run, call, folder):
    """Statistics that training measures itself are kept, though the data set states none."""
    call("train.py", "--data=raw", "--outdir=measured", *TRAIN)
    first = json.loads((folder / "measured/training_options.json").read_text())["encoder"]
    call("train.py", "--resume=measured", "--duration=0.000096", "--device=cpu")
    assert json.loads((folder / "measured/training_options.json").read_text())["encoder"] == first


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float16"])
def test_the_type_of_samples_is_the_data_s(call, folder, dtype):
    values = np.clip(np.random.default_rng(1).normal(100, 30, (12, 2, 8, 8)), 0, 255).astype(dtype)
    np.save(folder / f"{dtype}.npy", values)
    call("dataset_tool.py", f"--source={dtype}.npy", f"--dest={dtype}.zip")
    call("train.py", f"--data={dtype}.zip", f"--outdir=run-{dtype}", *TRAIN, "--xflip=1", "--cache=gpu")
    call("generate.py", f"--network=run-{dtype}", f"--outdir=out-{dtype}", "--seeds=0", "--steps=2", "--device=cpu")
    assert np.load(folder / f"out-{dtype}/000000.npy").dtype == dtype


def test_lines(call, folder):
    """Spectra [C,1,W]: only the width is halved."""
    (folder / "spectra").mkdir()
    for index, line in enumerate(np.random.default_rng(2).normal(size=(12, 2, 1, 20)).astype(np.float32)):
        np.save(folder / f"spectra/{index}.npy", line)
    call("train.py", "--data=spectra", "--outdir=lines", *TRAIN)
    call("generate.py", "--network=lines", "--outdir=out-lines", "--seeds=0-3", "--steps=2", "--grid=lines.png",
         "--device=cpu")  # fmt: skip
    assert np.load(folder / "out-lines/000003.npy").shape == (2, 1, 20)
    augmented = [one for one in TRAIN if not one.startswith("--augment")]
    assert "--augment=0" in call("train.py", "--data=spectra", "--outdir=none", *augmented, code=2)


@pytest.mark.parametrize(
    ("spoil", "flags", "named"),
    [
        (lambda a: a.__setitem__((2, 1, 3, 4), np.nan), [], ("2.npy", "channel 1, row 3, column 4", "--missing")),
        (lambda a: a.__setitem__((slice(None), 3), 7), [], ("channel 3", "constant", "--array-channels")),
        (lambda a: None, ["--dtype=uint8"], ("--dtype=uint8",)),
        (lambda a: None, ["--mean=1,2", "--std=1,2"], ("--mean", "5 channels")),
        (lambda a: None, ["--array-channels=9"], ("--array-channels=9", "0 to 4")),
        (lambda a: None, ["--resolution=8x8"], ("--resolution",)),
        (lambda a: None, ["--missing=often"], ("--missing=often",)),
    ],
)
def test_arrays_that_cannot_be_converted(call, tmp_path, spoil, flags, named):
    arrays = fields(4)
    spoil(arrays)
    (tmp_path / "bad").mkdir()
    for index, field in enumerate(arrays):
        np.save(tmp_path / f"bad/{index}.npy", field)
    said = call("dataset_tool.py", f"--source={tmp_path}/bad", f"--dest={tmp_path}/x.zip", *flags, code=2)
    assert all(one in said for one in named) and said.strip().count("\n") == 0 and not (tmp_path / "x.zip").exists()


def test_missing_values_are_dropped_or_replaced(call, tmp_path):
    arrays = fields(4)
    arrays[1, 2, 0, 0] = np.inf
    np.save(tmp_path / "some.npy", arrays)
    for policy, count in (("drop", 3), ("mean", 4), ("-1", 4)):
        dest = tmp_path / f"{policy}.zip"
        said = call("dataset_tool.py", f"--source={tmp_path}/some.npy", f"--dest={dest}", f"--missing={policy}")
        data = elucid.datasets.open(dest)
        assert len(data) == count and "channel 2, row 0, column 0" in said
    assert data.image(1)[2, 0, 0] == -1


def test_arrays_where_pictures_are_wanted_are_refused(run, call):
    for line in (
        ["fid.py", "ref", "--data=fields.zip", "--dest=ref.npz", "--detector=random"],
        ["dataset_tool.py", "encode", "--source=fields.zip", "--dest=latents.zip"],
        ["train.py", "--data=fields.zip", "--outdir=x", "--train_on_latents=1", *TRAIN],
    ):
        assert "fields.zip holds arrays" in call(*line, code=2)


def test_what_is_left_out_leaves_the_others_with_their_maps(call, tmp_path):
    arrays = np.arange(6, dtype=np.float32)[:, None, None, None] + np.random.default_rng(0).normal(size=(6, 1, 8, 8))
    np.save(tmp_path / "maps.npy", arrays.astype(np.float32))
    arrays[2, 0, 1, 1] = np.nan
    np.save(tmp_path / "fields.npy", arrays.astype(np.float32))
    for name, more in (("maps", []), ("fields", ["--missing=drop"])):
        call("dataset_tool.py", f"--source={tmp_path}/{name}.npy", f"--dest={tmp_path}/{name}.zip", *more)
    options = DataOptions(str(tmp_path / "fields.zip"), cond_images=str(tmp_path / "maps.zip"), cache="none")
    data = open_training_data(options)
    assert len(data) == 5
    for index in range(5):
        assert np.array_equal(data.maps.read(np.array([index]))[0], data.image(index))


def test_values_that_are_not_finite_end_a_run_by_name(call, tmp_path):
    """Also where the data set states its statistics, so that nothing is measured first."""
    arrays = np.random.default_rng(0).normal(size=(8, 1, 8, 8)).astype(np.float32)
    arrays[5, 0, 2, 3] = np.inf
    with h5py.File(tmp_path / "fields.h5", "w") as file:
        file["x"] = arrays
        file["x"].attrs["mean"], file["x"].attrs["std"] = [0.0], [1.0]
    said = call("train.py", f"--data={tmp_path}/fields.h5", f"--outdir={tmp_path}/run", *TRAIN, code=2)
    assert "fields.h5" in said and "channel 0, row 2, column 3" in said


def test_vectors_beside_a_table_are_vectors(call, tmp_path):
    with h5py.File(tmp_path / "fields.h5", "w") as file:
        file["x"] = np.random.default_rng(0).normal(size=(8, 1, 8, 8)).astype(np.float32)
        file["labels"] = np.random.default_rng(1).normal(size=(8, 3)).astype(np.float32)
    call("train.py", f"--data={tmp_path}/fields.h5/x", f"--outdir={tmp_path}/run", "--cond=1", *TRAIN)
    said = call("generate.py", f"--network={tmp_path}/run", f"--outdir={tmp_path}/out", "--device=cpu", code=2)
    assert "--cond_labels" in said


def test_types_that_are_too_coarse_are_refused(call, tmp_path):
    fields = 1e6 + np.random.default_rng(0).normal(size=(4, 1, 8, 8))
    np.save(tmp_path / "fine.npy", fields)
    said = call("dataset_tool.py", f"--source={tmp_path}/fine.npy", f"--dest={tmp_path}/x.zip", code=2)
    assert "--dtype=float32" in said and "channel 0" in said
    half = Arrays([50_000.0], [8_000.0], dtype="float16").decode(torch.full((1, 1, 1, 1), 9.0))
    assert half.isfinite().all()


def test_scores_while_training_by_a_detector_of_arrays(run, call, folder):
    (folder / "own.py").write_text(
        "import torch\nfrom elucid.metrics.detectors import Detector\n"
        "class Means(Detector):\n    name, dim, takes, sha256, resize = 'means', 5, 'arrays', '', 'none'\n"
        "    def __init__(self, device, weights=None):\n        self.device = device\n"
        "    def features(self, images):\n        return images.mean((2, 3))\n"
    )
    flags = ["--eval=16@1", "--set=eval.detector=own.py:Means", "--plugins=own.py", "--set=schedule.num_steps=2"]
    said = call("train.py", "--data=fields.zip", "--outdir=scored", *TRAIN, *flags)
    assert "16_means" in said
    flags = ["--eval=16@1", "--set=eval.detector=random"]
    said = call("train.py", "--data=fields.zip", "--outdir=none", *TRAIN, *flags, code=2)
    assert "random" in said and "arrays" in said
