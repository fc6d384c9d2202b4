"""Latents in EDM2's form as their users meet them: written, recognised, trained on, sampled, refused."""

import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from elucid.preparation.encode import encode
from elucid.training.data.dataset import open_dataset
from elucid.training.encoders.edm2 import EDM2_VAE
from elucid.training.registry.components import make
from elucid.training.snapshots.snapshot import load_snapshot
from tests import scripts
from tests.e2e.test_latents import call
from tests.vaes import save_pictures, save_tiny_vae

pytest.importorskip("diffusers")

TRAIN = ["train.py", *scripts.TINY, "--duration=0.000032", "--batch=8", "--tick=0.016", "--snap=0", "--dump=0"]
LATENTS = ["--train_on_latents=1", "--augment=0", "--cond=1", "--arch=edm2", "--precond=edm2"]
TRAIN = [flag for flag in [*TRAIN, *LATENTS] if "lr_rampup" not in flag] + ["--set=network.channels_per_head=16"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """pictures.zip; vae/; edm2.zip, encoded by us; foreign.zip, by plain numpy, of EDM2's statistics."""
    folder = tmp_path_factory.mktemp("edm2")
    save_pictures(folder / "pictures.zip")
    save_tiny_vae(folder / "vae")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELUCID_CACHE", str(folder / "cache"))
        flags = [f"--source={folder / 'pictures.zip'}", f"--model={folder / 'vae'}", "--device=cpu"]
        call("dataset_tool.py", "encode", f"--dest={folder / 'edm2.zip'}", "--encoder=edm2_vae", *flags)
        write_foreign(folder / "foreign.zip")
        yield folder


def write_foreign(path):
    rng, labels = np.random.default_rng(0), []
    mean, std = (np.array(EDM2_VAE[name])[:, None, None] for name in ("mean", "std"))
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(24):
            means = mean + 0.9 * std * rng.standard_normal((4, 8, 8))
            moments = np.concatenate([means, np.broadcast_to(0.4 * std, means.shape)]).astype(np.float32)
            name, file = f"00000/img{index:08d}.npy", io.BytesIO()
            np.save(file, moments)
            archive.writestr(name, file.getvalue())
            labels.append([name, index % 3])
        archive.writestr("dataset.json", json.dumps({"labels": labels}))


@pytest.fixture(scope="module")
def run(place):
    """The run folder of four steps on the foreign latents."""
    folder, model = place / "run", f"--set=encoder.model={place / 'vae'}"
    call(*TRAIN, f"--data={place / 'foreign.zip'}", f"--outdir={folder}", "--nosubdir", model)
    return folder


def test_what_is_written_is_read_without_us(place):
    """As a program does that knows numpy, names and labels."""
    pictures = open_dataset(place / "pictures.zip")
    encoder = make({"name": "edm2_vae", "model": str(place / "vae")}, "encoder").to("cpu")
    with zipfile.ZipFile(place / "edm2.zip") as archive:
        labels = dict(json.loads(archive.read("dataset.json"))["labels"])
        names = sorted(name for name in archive.namelist() if name.endswith(".npy"))
        assert names == [f"00000/img{index:08d}.npy" for index in range(24)] == sorted(labels)
        assert [labels[name] for name in names] == pictures.raw_labels.tolist()
        with archive.open(names[5]) as file:
            stored = np.load(file)
    assert (stored.shape, stored.dtype) == ((8, 8, 8), np.float32) and (stored[4:] > 0).all()
    made = encoder.moments(torch.from_numpy(pictures.image(5))[None])[0]
    np.testing.assert_allclose(stored, made.numpy(), rtol=1e-4, atol=1e-5)


def test_a_round_trip_keeps_the_pictures_of_the_vae(place):
    """Stored, normalised, restored and decoded pictures are those of the autoencoder alone."""
    encoder = make({"name": "edm2_vae", "model": str(place / "vae")}, "encoder").to("cpu")
    stored = torch.from_numpy(open_dataset(place / "edm2.zip", latents=True).image(3))[None].clone()
    stored[:, 4:] = 0  # no sampling
    with torch.no_grad():
        wanted = (encoder._autoencoder.decode(stored[:, :4]).sample.clip(0, 1) * 255).int()
    decoded = encoder.decode(encoder.encode(stored)).int()
    assert (decoded - wanted).abs().max() <= 1 and wanted.float().std() > 1


def test_the_data_set_says_what_it_holds(place):
    kept = open_dataset(place / "edm2.zip", latents=True).encoder
    assert (
        kept.items() >= {**EDM2_VAE, "name": "vae", "model": str(place / "vae")}.items() and len(kept["sha256"]) == 64
    )
    lines = call("dataset_tool.py", "verify", f"--source={place / 'edm2.zip'}")
    assert "pixels in [0, 1]" in lines and "--set='encoder.mean=[" in lines


def test_training_on_what_names_no_encoder(run, place, tmp_path):
    kept = load_snapshot(scripts.newest(run)).encoder
    assert (
        kept.items() >= {**EDM2_VAE, "model": str(place / "vae"), "scale": None}.items() and len(kept["sha256"]) == 64
    )
    call("generate.py", f"--network={scripts.newest(run)}", f"--outdir={tmp_path}", "--seeds=0-1", "--steps=2")
    with Image.open(tmp_path / "000001.png") as picture:
        assert (picture.size, picture.mode) == ((16, 16), "RGB")
    again = [flag for flag in TRAIN if "duration" not in flag] + ["--duration=0.00004"]
    assert "done" in call(*again, f"--resume={run}")


def test_samples_are_decoded_as_edm2_does(run, place, tmp_path):
    """Of given latents, by the encoder of the snapshot."""
    encoder = make(load_snapshot(scripts.newest(run)).encoder, "encoder").to("cpu")
    x = 0.5 * torch.randn(1, 4, 8, 8)
    raw = x * 2 * torch.tensor(EDM2_VAE["std"])[:, None, None] + torch.tensor(EDM2_VAE["mean"])[:, None, None]
    with torch.no_grad():
        wanted = (encoder._autoencoder.decode(raw).sample.clip(0, 1) * 255).int()
    assert (encoder.decode(x).int() - wanted).abs().max() <= 1


def test_encoded_at_every_step(place):
    options = [
        f"--data={place / 'pictures.zip'}",
        "--set=encoder.name=edm2_vae",
        f"--set=encoder.model={place / 'vae'}",
    ]
    printed = json.loads(call(*TRAIN, *options, "-n", f"--outdir={place}").partition("\n}")[0] + "}")
    assert printed["encoder"].items() >= {**EDM2_VAE, "model": str(place / "vae")}.items()


OUT = "--outdir=OUT"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["edm2", "encoder.model=VAE"], "the statistics that are to normalise them are [5.81,3.25,0.12,-2.15]"),
        (["edm2", "encoder.pixels=signed"], "holds latents of pixels in [0, 1]"),
        (["edm2", "encoder.scale=0.18"], "encoder.scale=0.18"),
        (["signed", "encoder.name=edm2_vae"], "holds latents of pixels in [-1, 1], but encoder.pixels is unit"),
        (["pictures", "encoder.name=edm2_vae", "encoder.pixels=signed"], "images would come out gray"),
        (["pictures", "encoder.name=edm2_vae", "encoder.scale=0.18"], "latents without a scale factor"),
    ],
)
def test_the_trap_is_named_in_one_line(place, tmp_path, args, message):
    data, *options = args
    if data == "signed":
        source, model = str(place / "pictures.zip"), str(place / "vae")
        encode(source, place / "signed.zip", model=model, device="cpu", overwrite=True, progress=False)
    flags = [f"--set={one}".replace("VAE", str(place / "vae")) for one in options]
    error = call(*TRAIN, f"--data={place / data}.zip", f"--outdir={tmp_path / 'out'}", *flags, code=2)
    assert message in error and not (tmp_path / "out").exists()
