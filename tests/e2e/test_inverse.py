"""Inverse problems by generate.py: a measurement, its operator, samples that agree with it, and their summary."""

import numpy as np
import pytest
from PIL import Image

import elucid
from tests import scripts

OWN = """
import torch
from elucid.training.inverse.operators.base import LinearOperator

class Columns(LinearOperator):
    def __call__(self, images):
        return images.sum(2)
    def adjoint(self, y):
        return y[:, :, None].expand(-1, -1, 8, -1)

class Wrong(Columns):
    def adjoint(self, y):
        return 2 * super().adjoint(y)
"""
TRAIN = [*scripts.TINY, "--augment=0", "--batch=8", "--duration=0.000064", "--tick=0.032", "--nosubdir"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("inverse"), np.random.default_rng(0)
    (path / "mine.py").write_text(OWN)
    for name in ("pictures", "measured"):
        (path / name).mkdir()
    for index in range(16):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path / f"pictures/{index:02d}.png")
    known = np.zeros((8, 8), dtype=np.uint8)
    known[:, :4] = 255
    Image.fromarray(known).save(path / "mask.png")
    for index in range(3):
        np.save(path / f"measured/{index}.npy", np.full((1, 8, 8), 60.0 + 30 * index, dtype=np.float32))
    return path


@pytest.fixture
def call(folder, monkeypatch, capsys):
    return scripts.caller(folder, monkeypatch, capsys)


@pytest.fixture
def prior(folder, call):
    if not (folder / "run").exists():
        call("train.py", "--data=pictures", "--outdir=run", *TRAIN)
    return ["--network=run", "--device=cpu", "--steps=6"]


def test_several_measurements_and_their_summary(prior, call, folder):
    flags = ["--operator=inpaint:mask.png", "--measurement=measured", "--members=4", "--summary=all.npz"]
    call("generate.py", *prior, *flags, "--outdir=out", "--seeds=0-11", "--measurement_noise=gaussian:2",
         "--grid=grid.png")  # fmt: skip
    samples = np.stack([np.asarray(Image.open(path)) for path in sorted((folder / "out").glob("*.png"))])
    for index in range(3):
        known = samples[4 * index : 4 * index + 4, :, :4].astype(float)
        assert abs(known.mean() - (60 + 30 * index)) < 6, "the known half is what was measured"
    assert samples[:4, :, 4:].std(axis=0).mean() > 2, "the unknown one differs from sample to sample"
    found = np.load(folder / "all.npz")
    assert found["mean"].shape == (3, 1, 8, 8) and np.array_equal(found["conditions"], [0, 1, 2])
    assert np.allclose(found["mean"], samples.reshape(3, 4, 1, 8, 8).mean(1), atol=1e-3)
    assert (found["low"] <= found["mean"]).all() and (found["mean"] <= found["high"]).all()


@pytest.mark.parametrize("method", ["pigdm", "dps", "diffpir", "replacement"])
def test_every_method_by_its_name(prior, call, folder, method):
    flags = ["--operator=superres:2", "--measurement=low.npy", f"--posterior={method}"]
    np.save(folder / "low.npy", np.full((1, 4, 4), 100.0))
    call("generate.py", *prior, *flags, f"--outdir={method}", "--seeds=0-3")
    samples = np.stack([np.asarray(Image.open(path)) for path in (folder / method).glob("*.png")])
    assert samples.std() > 0


def test_an_operator_of_one_s_own(prior, call, folder):
    np.save(folder / "sums.npy", np.full((1, 8), 800.0))
    flags = ["--measurement=sums.npy", "--measurement_noise=8", "--plugins=mine.py"]
    call("generate.py", *prior, "--operator=mine.py:Columns", *flags, "--outdir=own", "--seeds=0-7")
    samples = np.stack([np.asarray(Image.open(path)) for path in (folder / "own").glob("*.png")])
    assert abs(samples.astype(float).sum(1).mean() - 800) < 40
    said = call("generate.py", *prior, "--operator=mine.py:Wrong", *flags, "--outdir=x", code=2)
    assert "adjoint" in said and said.strip().count("\n") == 0 and not (folder / "x").exists()


def test_arrays_in_their_own_units(call, folder):
    """The measurement, its noise and the samples are in Kelvin."""
    fields = 280 + 10 * np.random.default_rng(1).normal(size=(16, 2, 8, 8)).astype(np.float32)
    np.save(folder / "fields.npy", fields)
    call("train.py", "--data=fields.npy", "--outdir=kelvin", *TRAIN)
    np.save(folder / "kelvin.npy", np.full((2, 8, 8), 290.0))
    call("generate.py", "--network=kelvin", "--device=cpu", "--steps=6", "--outdir=warm", "--seeds=0-3",
         "--operator=inpaint:mask.png", "--measurement=kelvin.npy", "--measurement_noise=0.5")  # fmt: skip
    samples = np.stack([elucid.datasets.open(folder / "warm").image(index) for index in range(4)])
    assert abs(samples[..., :4].mean() - 290) < 1 and samples.dtype == np.float32


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--measurement=mask.png"], "--operator"),
        (["--operator=inpaint:mask.png"], "--measurement"),
        (["--operator=blurry", "--measurement=mask.png"], "blurry"),
        (["--operator=superres:3", "--measurement=mask.png"], "factor=[3, 3]"),
        (["--operator=superres:2", "--measurement=mask.png"], "[1, 4, 4]"),
        (["--operator=inpaint:mask.png", "--measurement=mask.png", "--measurement_noise=poisson:-1"], "gain=-1"),
        (["--operator=inpaint:mask.png", "--measurement=mask.png", "--posterior=magic"], "magic"),
        (["--operator=inpaint:mask.png", "--measurement=mask.png", "--summary=s.npz"], "--members"),
        (["--operator=inpaint:mask.png", "--measurement=measured", "--seeds=0-3"], "seed 3"),
    ],
)
def test_problems_that_cannot_be_solved(prior, call, folder, flags, named):
    said = call("generate.py", *prior, *flags, "--outdir=bad", code=2)
    assert named in said and said.strip().count("\n") == 0 and not (folder / "bad").exists()


def test_a_file_of_many_measurements_gives_each_seed_its_own(prior, call, folder):
    np.save(folder / "many.npy", np.stack([np.load(folder / f"measured/{index}.npy") for index in range(3)]))
    flags = ["--operator=inpaint:mask.png", "--members=2", "--measurement_noise=2"]
    call("generate.py", *prior, *flags, "--measurement=measured", "--outdir=by-folder")
    call("generate.py", *prior, *flags, "--measurement=many.npy", "--outdir=by-file", "--seeds=3-5")
    paths = sorted((folder / "by-folder").glob("*.png"))
    assert len(paths) == 6, "by default all samples of all conditions"
    for seed in (3, 4, 5):
        one, other = (folder / f"{name}/{seed:06d}.png" for name in ("by-folder", "by-file"))
        assert np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(other)))
    said = call("generate.py", *prior, *flags, "--measurement=measured", "--outdir=by-folder", "--summary=late.npz")
    assert "0 images generated" in said and np.load(folder / "late.npz")["mean"].shape == (3, 1, 8, 8)


def test_channels_of_very_different_units(call, folder):
    """A channel of small numbers is solved for as one of large ones is."""
    scale = np.array([3000.0, 5e-4])[:, None, None]
    np.save(folder / "units.npy", (scale * np.random.default_rng(3).normal(size=(16, 2, 8, 8))).astype(np.float32))
    call("train.py", "--data=units.npy", "--outdir=units", *TRAIN)
    np.save(folder / "known.npy", np.broadcast_to(0.9 * scale, (2, 8, 8)))
    for method in ("tmpd", "pigdm"):
        call("generate.py", "--network=units", "--device=cpu", "--steps=6", f"--outdir=units-{method}", "--seeds=0-3",
             "--operator=identity", "--measurement=known.npy", f"--posterior={method}",
             "--measurement_noise=gaussian:30,5e-6")  # fmt: skip
        samples = np.stack([np.load(path) for path in (folder / f"units-{method}").glob("*.npy")]) / scale
        assert np.abs(samples.mean((0, 2, 3)) - 0.9).max() < 0.1, method
