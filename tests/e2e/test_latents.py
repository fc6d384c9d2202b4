"""Latents as their users meet them: stored or encoded on the fly, trained on, sampled, scored; and what is refused."""

import io
import json
import pickle
import runpy
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest
import torch
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.training.config.build import make_denoiser
from elucid.training.data.cache import cached
from elucid.training.data.dataset import open_dataset
from elucid.training.data.npy import to_npy
from elucid.training.encoders.vae import VAE
from elucid.training.snapshots.snapshot import load_snapshot
from elucid.training.types import NetSpec
from tests import published, scripts
from tests.vaes import save_pictures, save_tiny_vae

pytest.importorskip("diffusers")

TEN_STEPS = [*scripts.TINY, "--duration=0.00008", "--batch=8", "--tick=0.04", "--snap=0", "--dump=0", "--augment=0"]


def call(script, *args, code=0):
    """Run a script in this process, for diffusers takes seconds to import; returns stdout, or the error."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [script, *map(str, args)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(scripts.ROOT / script), run_name="__main__")
    assert stop.value.code == code, err.getvalue()
    return out.getvalue() if code == 0 else err.getvalue().strip().splitlines()[-1]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """pictures.zip, its latents in latents.zip, the VAE in vae/."""
    folder = tmp_path_factory.mktemp("latents")
    save_pictures(folder / "pictures.zip")
    save_tiny_vae(folder / "vae")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELUCID_CACHE", str(folder / "cache"))
        flags = [f"--dest={folder / 'latents.zip'}", f"--model={folder / 'vae'}", "--device=cpu", "--batch=5"]
        call("dataset_tool.py", "encode", f"--source={folder / 'pictures.zip'}", *flags)
        yield folder


@pytest.fixture(scope="module")
def finished(place):
    """Run folders of ten steps on the pictures and on the stored latents."""
    folders = {}
    for name, model in (("pictures", [f"--set=encoder.model={place / 'vae'}", "--xflip=1"]), ("latents", [])):
        data = [f"--data={place / name}.zip", f"--outdir={place / 'runs' / name}", "--nosubdir"]
        call("train.py", *TEN_STEPS, *data, "--train_on_latents=1", "--cond=1", *model)
        folders[name] = place / "runs" / name
    return folders


def test_stored_latents_are_what_the_vae_makes(place):
    pictures, latents = open_dataset(place / "pictures.zip"), open_dataset(place / "latents.zip", latents=True)
    assert (len(latents), latents.channels, latents.resolution, latents.dtype) == (24, 8, (8, 8), np.float16)
    vae = VAE(str(place / "vae")).to("cpu")
    made = vae.moments(torch.from_numpy(np.stack([pictures.image(index) for index in range(24)]))).numpy()
    stored = np.stack([latents.image(index) for index in range(24)])
    np.testing.assert_allclose(stored, made, rtol=1e-3, atol=1e-4)
    assert latents.encoder == {"name": "vae", "model": str(place / "vae"), "scale": 0.18215, "sha256": vae.sha256}
    assert latents.class_names == ["a", "b", "c"] and np.array_equal(latents.raw_labels, pictures.raw_labels)
    copy = pickle.loads(pickle.dumps(cached(latents, progress=False)))
    assert copy.array.dtype == np.float16 and np.array_equal(copy.array, stored) and copy.encoder == latents.encoder


def test_verify_says_what_latents_are_stored(place, tmp_path):
    lines = call("dataset_tool.py", "verify", f"--source={place / 'latents.zip'}").splitlines()
    assert lines[:3] == ["latents: 24", "size: 8x8", "channels: 4 (mean and standard deviation of each, float16)"]
    assert lines[3].startswith(f"encoder: {place / 'vae'}, factor 0.18215, weights ") and "classes: 3" in lines
    deviations = next(line for line in lines if line.startswith("std: ")).split()[1:]
    samples = torch.cat([VAE(str(place / "vae")).encode(batch) for batch in [moments_of(place)] * 20])
    np.testing.assert_allclose(np.array(deviations, float), samples.std((0, 2, 3)), rtol=0.05)


def moments_of(place):
    dataset = open_dataset(place / "latents.zip", latents=True)
    return torch.from_numpy(np.stack([dataset.image(index) for index in range(len(dataset))]))


@pytest.mark.parametrize("name", ["pictures", "latents"])
def test_ten_steps_give_a_snapshot_that_knows_its_encoder(finished, place, name):
    snapshot = load_snapshot(scripts.newest(finished[name]))
    assert snapshot.ema.spec.sample_shape == (4, 8, 8) and snapshot.ema.spec.latent
    kept = snapshot.encoder
    assert (kept["name"], kept["model"], kept["scale"]) == ("vae", str(place / "vae"), 0.18215)
    assert not any("decoder.conv_in" in key for key in snapshot.ema.state_dict())
    with Image.open(scripts.newest(finished[name], "samples")) as grid:
        assert (grid.size, grid.mode) == ((994, 994), "RGB")
    losses = [json.loads(line)["Loss/loss"]["mean"] for line in (finished[name] / "stats.jsonl").open()]
    assert len(losses) == 2 and np.isfinite(losses).all()


def test_samples_are_decoded_pictures(finished, place, tmp_path):
    snapshot = f"--network={scripts.newest(finished['latents'])}"
    sampling = ["--steps=3", "--device=cpu"]
    for folder, flags in (("one", ["--seeds=0-5"]), ("two", ["--seeds=3,5", "--batch=1", "--on_latents=1"])):
        call("generate.py", snapshot, f"--outdir={tmp_path / folder}", *sampling, *flags)
    assert len(list((tmp_path / "one").glob("*.png"))) == 6
    for path in (tmp_path / "two").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()
        with Image.open(path) as picture:
            assert (picture.size, picture.mode) == ((16, 16), "RGB")
    call("fid.py", "ref", f"--data={place / 'pictures.zip'}", f"--dest={tmp_path / 'r.npz'}", "--detector=random")
    last = call("fid.py", "calc", snapshot, f"--ref={tmp_path / 'r.npz'}", "--seeds=0-5", *sampling).splitlines()[-1]
    assert np.isfinite(float(last))


def test_a_published_model_of_four_channels_makes_latents(place, tmp_path):
    options = {"model_channels": 16, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
    denoiser = make_denoiser({"name": "ddpmpp", **options}, {"name": "edm"}, NetSpec((8, 8), 4))
    outer = {"img_resolution": 8, "img_channels": 4, "label_dim": 0, "model_type": "SongUNet", **options}
    content = published.checkpoint({}, "EDMPrecond", "SongUNet", outer, {}, denoiser.model.state_dict())
    (tmp_path / "edm.pkl").write_bytes(published.dumps(content))
    snapshot = load_snapshot(tmp_path / "edm.pkl")
    assert snapshot.ema.spec.latent and snapshot.encoder == {"name": "vae"}
    network = [f"--network={tmp_path / 'edm.pkl'}", f"--set=encoder.model={place / 'vae'}"]
    call("generate.py", *network, f"--outdir={tmp_path / 'out'}", "--seeds=0", "--steps=2", "--device=cpu")
    with Image.open(tmp_path / "out" / "000000.png") as picture:
        assert (picture.size, picture.mode) == ((16, 16), "RGB")


def test_a_run_resumes_where_its_vae_has_moved(finished, place, tmp_path):
    (place / "vae").rename(place / "moved")
    try:
        resume = ["train.py", *TEN_STEPS, f"--resume={finished['latents']}", "--duration=0.000096"]
        assert "give a folder, a file or a hub name by --set encoder.model" in call(*resume, code=2)
        assert "done" in call(*resume, f"--set=encoder.model={place / 'moved'}")
    finally:
        (place / "moved").rename(place / "vae")


LATENTS, PICTURES = "--data=PLACE/latents.zip", "--data=PLACE/pictures.zip"
TRAIN, GENERATE = ["train.py", *TEN_STEPS, "--outdir=OUT"], ["generate.py", "--seeds=0", "--device=cpu", "--outdir=OUT"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([*TRAIN, LATENTS], "latents.zip holds latents, not images; train on them with --train_on_latents=1"),
        ([*TRAIN, LATENTS, "--train_on_latents=1", "--xflip=1"], "--xflip=1"),
        ([*TRAIN, LATENTS, "--train_on_latents=1", "--set=encoder.scale=0.13"], "of encoder.scale=0.18215, not 0.13"),
        ([*TRAIN, LATENTS, "--train_on_latents=1", "--set=encoder.model=OTHER"], "other3 has other weights"),
        ([*TRAIN, LATENTS, "--train_on_latents=1", "-n", "--set=encoder.model=WIDE"], "stores latents of 4 channels"),
        ([*TRAIN, LATENTS, "--train_on_latents=1", "--set=encoder.modle=x"], "did you mean 'model'?"),
        ([*TRAIN, PICTURES, "--train_on_latents=1", "--set=encoder.model=nowhere"], "VAE not found: nowhere"),
        ([*GENERATE, "--network=SNAPSHOT", "--on_latents=0"], "--on_latents=0, but the snapshot"),
        ([*GENERATE, "--network=SNAPSHOT", "--set=encoder.model=OTHER"], "other3 has other weights"),
        ([*GENERATE, "--network=SNAPSHOT", "--set=encoder.name=rgb"], "with the snapshot's own encoder"),
        (["dataset_tool.py", "encode", "--source=PLACE/latents.zip", "--dest=OUT/a.zip"], "holds latents, not images"),
        (["fid.py", "ref", LATENTS, "--dest=OUT/r.npz", "--detector=random"], "holds latents, not images"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(finished, place, tmp_path, args, message):
    if "OTHER" in args[-1]:
        save_tiny_vae(tmp_path / "other3", seed=3)
    if "WIDE" in args[-1]:
        save_tiny_vae(tmp_path / "wide", channels=8)
    names = {"PLACE": place, "OUT": tmp_path / "out", "OTHER": tmp_path / "other3", "WIDE": tmp_path / "wide"}
    names["SNAPSHOT"] = scripts.newest(finished["latents"])
    for name, path in names.items():
        args = [one.replace(name, str(path)) for one in args]
    assert message in call(*args, code=2)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.*"))


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (to_npy(np.zeros((8, 8, 8), np.float16))[:-50], "img00000002.npy is not a .npy"),
        (b"not at all", "img00000002.npy is not a .npy"),
        (to_npy(np.zeros((8, 4, 8), np.float16)), "several kinds: .*img00000002.npy differs"),
        (to_npy(np.full((8, 8, 8), np.nan, np.float16)), "img00000002.npy has values that are not finite"),
        (to_npy(np.full((8, 8, 8), -1, np.float16)), "img00000002.npy has values that are not finite or below 0"),
    ],
)
def test_damaged_latents_are_named(place, tmp_path, member, message):
    archive = rewritten(place, tmp_path, {"00000/img00000002.npy": member})
    from elucid.preparation.verify import verify

    with pytest.raises(UserError, match=message):
        verify(archive, progress=False)


def test_a_damaged_note_of_the_encoder_is_named(place, tmp_path):
    archive = rewritten(place, tmp_path, {"dataset.json": json.dumps({"labels": None, "encoder": {}}).encode()})
    with pytest.raises(UserError, match='dataset.json: "encoder" is damaged'):
        open_dataset(archive, latents=True)


def rewritten(place, tmp_path, changes):
    """The stored latents with other contents of some files."""
    with zipfile.ZipFile(place / "latents.zip") as old, zipfile.ZipFile(tmp_path / "bad.zip", "w") as new:
        for name in old.namelist():
            new.writestr(name, changes.get(name, old.read(name)))
    return tmp_path / "bad.zip"
