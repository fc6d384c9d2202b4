"""The latent path offline and whole: an autoencoder of one's own, measured latents, a flow on them, pictures."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import small_vae
from elucid.dnnlib import cli
from elucid.evaluation.toy.one_thread import one_thread
from elucid.training.data.dataset import open_dataset
from elucid.training.encoders.vae import VAE
from elucid.training.snapshots.snapshot import load_snapshot
from tests import scripts
from tests.e2e.test_latents import call
from tests.vaes import save_pictures, save_tiny_vae

pytest.importorskip("diffusers")

TRAIN = ["train.py", *scripts.TINY, "--batch=8", "--tick=0.016", "--snap=0", "--dump=1", "--augment=0", "--cond=1"]
FLOW = [flag for flag in TRAIN if "lr_rampup" not in flag] + ["--precond=flow", "--train_on_latents=1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """pictures.zip, vae/, latents.zip with statistics, and run/, a flow of four steps on it."""
    folder = tmp_path_factory.mktemp("measured")
    save_pictures(folder / "pictures.zip")
    save_tiny_vae(folder / "vae")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELUCID_CACHE", str(folder / "cache"))
        encode = ["encode", f"--source={folder / 'pictures.zip'}", f"--model={folder / 'vae'}", "--device=cpu"]
        said = call("dataset_tool.py", *encode, f"--dest={folder / 'latents.zip'}", "--measure")
        assert "mean [" in said and "factor" not in said
        run = [f"--data={folder / 'latents.zip'}", f"--outdir={folder / 'run'}", "--nosubdir"]
        call(*FLOW, *run, "--duration=0.000032")
        yield folder


def test_the_run_normalises_by_the_measured_statistics(place):
    measured = open_dataset(place / "latents.zip", latents=True).encoder
    kept = load_snapshot(scripts.newest(place / "run")).encoder
    assert kept.items() >= {**measured, "final_std": 1.0, "scale": None}.items()
    losses = [json.loads(line)["Loss/loss"]["mean"] for line in (place / "run/stats.jsonl").open()]
    assert losses and np.isfinite(losses).all()


def test_a_resumed_run_keeps_them(place):
    before = load_snapshot(scripts.newest(place / "run")).encoder
    assert "done" in call(*FLOW, f"--resume={place / 'run'}", "--duration=0.000048")
    after = load_snapshot(scripts.newest(place / "run"))
    assert after.nimg == 48 and after.encoder == before


def test_samples_are_decoded_by_the_way_back(place, tmp_path):
    generate = ["generate.py", f"--network={scripts.newest(place / 'run')}", "--seeds=0-3", "--device=cpu"]
    call(*generate, f"--outdir={tmp_path / 'one'}", "--steps=3")
    # Twice the final deviation there is half the latent here, so other pictures.
    call(*generate, f"--outdir={tmp_path / 'two'}", "--steps=3", "--set=encoder.final_std=2")
    pictures = [np.stack([np.asarray(Image.open(tmp_path / name / f"{seed:06d}.png")) for seed in range(4)])
                for name in ("one", "two")]  # fmt: skip
    assert pictures[0].shape == (4, 16, 16, 3) and not np.array_equal(*pictures)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["encode", "--source=PLACE/latents.zip", "--dest=OUT.zip", "--measure"], "dataset_tool.py verify measures"),
        (
            ["encode", "--source=PLACE/pictures.zip", "--dest=OUT.zip", "--final-std=1"],
            "--final-std=1 is the deviation",
        ),
        (
            ["encode", "--source=PLACE/pictures.zip", "--dest=OUT.zip", "--measure", "--scale=1"],
            "--measure and --scale",
        ),
    ],
)
def test_mistakes_name_the_flags(place, tmp_path, args, message):
    args = [one.replace("PLACE", str(place)).replace("OUT", str(tmp_path / "out")) for one in args]
    assert message in call("dataset_tool.py", *args, code=2)
    assert not (tmp_path / "out.zip").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out=PLACE/vae"], "vae exists; give another name"),
        (["--widths=8,x"], "--widths=8,x must be whole numbers"),
        (["--widths=8,8,8,8,8,8"], "--widths of 6 make images 32 times smaller, which does not divide 16x16"),
        (["--held-out=24"], "--held-out=24 leaves none of 24 images"),
        (["--data=PLACE/latents.zip"], "holds latents, not images"),
    ],
)
def test_mistakes_with_the_small_autoencoder(place, tmp_path, capsys, options, message):
    given = [f"--data={place / 'pictures.zip'}", f"--out={tmp_path / 'new'}", "--kimg=0.001"]
    with pytest.raises(SystemExit) as stop:
        cli.run(small_vae.main, [*given, *(one.replace("PLACE", str(place)) for one in options)])
    assert stop.value.code == 2 and not (tmp_path / "new").exists()
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_small_autoencoder_learns_pictures(place, tmp_path):
    """More than one gray for all, and its factor brings latents to deviation 1."""
    how = ["--kimg=0.8", "--widths=8,16", "--held-out=6", "--batch=6", "--lr=0.01"]
    how += [f"--data={place / 'pictures.zip'}", f"--out={tmp_path / 'vae'}", f"--picture={tmp_path / 'shown.png'}"]
    with one_thread():  # the layers are tiny
        small_vae.main(how, standalone_mode=False)
    vae = VAE(str(tmp_path / "vae")).to("cpu")
    dataset = open_dataset(place / "pictures.zip")
    images = torch.from_numpy(np.stack([dataset.image(index) for index in range(len(dataset))]))
    again, found = small_vae.measure(vae, images)
    gray = 10 * np.log10(255**2 / (images.double() - images.double().mean()).square().mean().item())
    assert again.shape == images.shape and vae.factor == 2
    assert found["psnr"] > gray + 1 and found["std"] == pytest.approx(1, abs=0.2)
    with Image.open(tmp_path / "shown.png") as shown:
        assert shown.width > shown.height
