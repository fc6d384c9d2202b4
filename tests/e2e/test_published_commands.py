"""The commands in the READMEs of EDM, CDM and Patch Diffusion, with local paths and nothing else changed.

All go as far as --dry-run; those of small pictures also train ten steps of a network that is small, too.
"""

import io
import json
import pickle
import re
import runpy
import shutil
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from elucid.training.config.build import make_denoiser
from elucid.training.loop import train_step
from elucid.training.snapshots.snapshot import Snapshot, load_snapshot, save_snapshot
from elucid.training.types import NetSpec
from tests import scripts
from tests.vaes import as_hub_download, save_tiny_vae

CIFAR = "train.py --outdir=training-runs --data=datasets/cifar10-32x32.zip"
AFHQ_SIZE = "--batch=256 --cres=1,2,2,2 --lr=2e-4"
IMAGENET = "--lr=1e-4 --ema=50 --dropout=0.10 --augment=0 --fp16=1 --ls=100"
LATENTS = f"--train_on_latents=1 --batch-gpu=32 {IMAGENET} --real_p=0.5"

TRAINING = {
    "edm cifar10 cond vp": f"{CIFAR} --cond=1 --arch=ddpmpp",
    "edm cifar10 cond ve": f"{CIFAR} --cond=1 --arch=ncsnpp",
    "edm cifar10 uncond vp": f"{CIFAR} --cond=0 --arch=ddpmpp",
    "edm cifar10 uncond ve": f"{CIFAR} --cond=0 --arch=ncsnpp",
    "edm ffhq vp": "train.py --outdir=training-runs --data=datasets/ffhq-64x64.zip --cond=0 --arch=ddpmpp "
    f"{AFHQ_SIZE} --dropout=0.05 --augment=0.15",
    "edm ffhq ve": "train.py --outdir=training-runs --data=datasets/ffhq-64x64.zip --cond=0 --arch=ncsnpp "
    f"{AFHQ_SIZE} --dropout=0.05 --augment=0.15",
    "edm afhqv2 vp": "train.py --outdir=training-runs --data=datasets/afhqv2-64x64.zip --cond=0 --arch=ddpmpp "
    f"{AFHQ_SIZE} --dropout=0.25 --augment=0.15",
    "edm afhqv2 ve": "train.py --outdir=training-runs --data=datasets/afhqv2-64x64.zip --cond=0 --arch=ncsnpp "
    f"{AFHQ_SIZE} --dropout=0.25 --augment=0.15",
    "edm imagenet": "train.py --outdir=training-runs --data=datasets/imagenet-64x64.zip --cond=1 --arch=adm "
    f"--duration=2500 --batch=4096 {IMAGENET} --tick=200",
    "cdm cifar10 cond": f"{CIFAR} --cond=1 --arch=ddpmpp --precond=cdm --S_churn=0 --S_min=0 --S_max=inf --S_noise=1 "
    "--martingale_lambda=10 --martingale_steps=6 --experiment_name=cifar10_cond --wandb_id=none",
    "cdm cifar10 uncond": f"{CIFAR} --cond=0 --arch=ddpmpp --precond=cdm",
    "cdm afhqv2": "train.py --outdir=training-runs --data=datasets/afhqv2-64x64.zip --cond=0 --arch=ddpmpp "
    "--batch=128 --cres=1,2,2,2 --lr=2e-4 --dropout=0.25 --augment=0.15 --precond=cdm",
    "patch celeba": "train.py --outdir=training-runs --data=datasets/celeba-64x64.zip --cond=0 --arch=ddpmpp "
    f"{AFHQ_SIZE} --dropout=0.05 --augment=0 --real_p=0.5",
    "patch celeba, all flags": "train.py --outdir=training-runs --data=datasets/celeba-64x64.zip --cond=0 "
    f"--arch=ddpmpp --precond=pedm {AFHQ_SIZE} --dropout=0.05 --augment=0 --real_p=0.5 --train_on_latents=0 "
    "--progressive=0 --implicit_mlp=0",
    "patch lsun": "train.py --outdir=training-runs --data=datasets/lsun-256x256.zip --cond=0 --arch=adm "
    f"--duration=200 --batch=1024 {LATENTS}",
    "patch imagenet": "train.py --outdir=training-runs --data=datasets/imagenet-256x256.zip --cond=1 --arch=adm "
    f"--duration=2500 --batch=4096 --tick=200 {LATENTS}",
}
PRESETS = {
    "cifar10-cond-edm": "edm cifar10 cond vp",
    "cifar10-uncond-edm": "edm cifar10 uncond vp",
    "ffhq-64": "edm ffhq vp",
    "afhqv2-64": "edm afhqv2 vp",
    "imagenet-64": "edm imagenet",
    "cdm-cifar10-cond": "cdm cifar10 cond",
    "cdm-cifar10-uncond": "cdm cifar10 uncond",
    "cdm-afhqv2-64": "cdm afhqv2",
    "patch-celeba-64": "patch celeba",
    "patch-lsun-256": "patch lsun",
    "patch-imagenet-256": "patch imagenet",
}
CHAINS = {"edm": ["edm"], "cdm": ["cdm", "edm"], "patch": ["patch", "edm"]}
SMALL = ["edm cifar10 cond vp", "edm cifar10 uncond ve", "cdm cifar10 cond", "patch celeba, all flags", "patch lsun"]
TINY = "--cbase=16 --set=network.num_blocks=1 --set=loop.grid_images=0 --batch=2 --batch-gpu=2 --seed=0"
PREPARATION = [
    "dataset_tool.py --source=downloads/cifar10/cifar-10-python.tar.gz --dest=datasets/cifar10-32x32.zip",
    "dataset_tool.py --source=downloads/ffhq/images1024x1024 --dest=datasets/ffhq-64x64.zip --resolution=64x64",
    "dataset_tool.py --source=downloads/imagenet/ILSVRC/Data/CLS-LOC/train --dest=datasets/imagenet-64x64.zip "
    "--resolution=64x64 --transform=center-crop",
]
COPIES = {"afhqv2-64x64": "ffhq-64x64", "celeba-64x64": "ffhq-64x64"}
COPIES |= {"lsun-256x256": "ffhq-64x64", "imagenet-256x256": "imagenet-64x64"}
"""Data sets that others stand in for. The test's VAE makes pictures 2 times smaller, not 8: the latents are 32x32."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A few pictures as downloads, the data sets made of them, and a VAE in the place of the hub's."""
    pytest.importorskip("diffusers")
    place = tmp_path_factory.mktemp("published")
    rng = np.random.default_rng(0)
    for name, size in (("ffhq/images1024x1024", (80, 80)), ("imagenet/ILSVRC/Data/CLS-LOC/train", (72, 90))):
        for index in range(4):
            path = place / "downloads" / name / f"kind{index % 2}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    save_cifar(place / "downloads/cifar10/cifar-10-python.tar.gz", rng)
    as_hub_download(save_tiny_vae(place / "vae"), place / "hub", "stabilityai/sd-vae-ft-ema")
    (place / "datasets").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("ELUCID_CACHE", str(place / "cache"))
        for constants in ("huggingface_hub.constants", "diffusers.utils.constants"):
            patch.setattr(f"{constants}.HF_HUB_CACHE", str(place / "hub"), raising=False)
        for command in PREPARATION:
            script, *flags = command.split()
            patch.setattr(sys, "argv", [script, *flags])
            with pytest.raises(SystemExit) as stop:
                runpy.run_path(str(scripts.ROOT / script), run_name="__main__")
            assert stop.value.code == 0
        for copy, original in COPIES.items():
            shutil.copy(place / f"datasets/{original}.zip", place / f"datasets/{copy}.zip")
        yield place


def save_cifar(path, rng) -> None:
    """A CIFAR-10 archive of two pictures a batch."""
    path.parent.mkdir(parents=True)
    files = {"batches.meta": {b"label_names": [b"%d" % index for index in range(10)]}}
    for index in range(1, 6):
        pixels = rng.integers(0, 256, (2, 3072), dtype=np.uint8)
        files[f"data_batch_{index}"] = {b"data": pixels, b"labels": [2 * index - 2, 2 * index - 1]}
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            data = pickle.dumps(content, protocol=2)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def call(folder, monkeypatch, capsys):
    """Run a command line that must succeed; returns stdout and stderr."""

    def run(command: str) -> tuple[str, str]:
        code, out, err = scripts.call(monkeypatch, capsys, *command.split())
        assert code == 0, f"{command}\n{err}"
        return out, err

    return run


@pytest.fixture
def dry_run(call):
    """The options that a command prints."""
    return lambda command: json.JSONDecoder().raw_decode((out := call(f"{command} -n")[0])[out.index("{") :])[0]


def names(loss: dict | None) -> list[str]:
    """The names of a chain of losses."""
    return [loss["name"], *names(loss.get("base"))] if loss else []


@pytest.mark.parametrize("name", TRAINING)
def test_dry_run(name, dry_run):
    command = TRAINING[name]
    options = dry_run(command)
    assert names(options["loss"]) == CHAINS[name.split()[0]]
    assert options["encoder"]["name"] == ("vae" if "--train_on_latents=1" in command else "rgb")
    assert (options["augment"] is None) == ("--augment=0 " in command)
    given = dict(flag.split("=", 1) for flag in command.split()[1:])
    assert options["network"]["name"] == given["--arch"]
    assert options["loop"]["batch_size"] == int(given.get("--batch", 512))
    assert options["network"]["dropout"] == float(given.get("--dropout", 0.13))


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_these_commands(preset, dry_run):
    command = TRAINING[PRESETS[preset]]
    data = next(flag for flag in command.split() if flag.startswith("--data="))
    assert dry_run(f"train.py --preset={preset} {data} --seed=3") == dry_run(f"{command} --seed=3")


@pytest.mark.parametrize("name", SMALL)
def test_ten_steps(name, folder, call, monkeypatch):
    counts = []

    def ten(run, objective):
        images = train_step(run, objective)
        counts.append(images)
        if len(counts) == 10:
            run.loop.duration_mimg = run.nimg / 1e6
        return images

    monkeypatch.setattr("elucid.training.loop.train_step", ten)
    outdir = folder / "training-runs" / re.sub(r"\W+", "-", name)
    out, _ = call(f"{TRAINING[name]} {TINY} --device=cpu --nosubdir --outdir={outdir}")
    assert len(counts) == 10 and "done:" in out
    spec = load_snapshot(outdir / "network-snapshot-000000.pkl").ema.spec
    assert (spec.latent, bool(spec.spatial)) == ("lsun" in name, "patch" in name)
    assert set(counts) == ({2, 4} if "lsun" in name else {2, 4, 8} if "patch" in name else {2})


SPECS = {
    "cifar10": NetSpec((32, 32), 3, vector={"labels": 10}),
    "celeba": NetSpec((64, 64), 3, spatial={"coords": 2}),
    "lsun": NetSpec((32, 32), 4, spatial={"coords": 2}, latent=True),
    "imagenet": NetSpec((32, 32), 4, vector={"labels": 1000}, spatial={"coords": 2}, latent=True),
}
CHURN = "--S_churn=40 --S_min=0.05 --S_max=50 --S_noise=1.003"
SAMPLING = [
    "generate.py --outdir=out --seeds=0-63 --batch=64 --network=networks/cifar10.pkl",
    "generate.py --outdir=out --seeds=0-63 --batch=64 --steps=18 --class=3 --network=networks/cifar10.pkl",
    "generate.py --outdir=out --seeds=0-63 --subdirs --steps=40 --network=networks/cifar10.pkl",
    f"generate.py --outdir=out --seeds=0-63 --batch=64 --steps=256 {CHURN} --network=networks/cifar10.pkl",
    "generate.py --outdir=out --steps=512 --solver=euler --disc=vp --schedule=vp --scaling=vp "
    "--network=networks/cifar10.pkl",
    "generate.py --outdir=out --seeds=0-49999 --subdirs --steps=50 --resolution=64 --on_latents=0 "
    "--network=networks/celeba.pkl",
    "generate.py --outdir=out --seeds=0-63 --steps=50 --resolution=64 --on_latents=0 --embed_fq=0 --mask_pos=0 "
    "--x_start=0 --y_start=0 --image_size=64 --network=networks/celeba.pkl",
    f"generate.py --outdir=out --seeds=0-63 --steps=256 {CHURN} --resolution=32 --on_latents=1 "
    "--network=networks/lsun.pkl",
    f"generate.py --outdir=out --seeds=0-63 --steps=256 {CHURN} --cfg=1.3 --resolution=32 --on_latents=1 "
    "--network=networks/imagenet.pkl",
]


@pytest.fixture(scope="module")
def networks(folder):
    """Untrained small networks of the published shapes."""
    small = {"name": "ddpmpp", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1}
    for name, spec in SPECS.items():
        encoder = {"name": "vae" if spec.latent else "rgb"}
        denoiser = make_denoiser(small, {"name": "edm"}, spec).eval()
        save_snapshot(folder / f"networks/{name}.pkl", Snapshot({"0.5": denoiser}, encoder))


@pytest.mark.parametrize("command", SAMPLING, ids=range(len(SAMPLING)))
def test_sampling(command, networks, call, tmp_path):
    call(f"{command} --seeds=0,1 --steps=2 --device=cpu --outdir={tmp_path}")
    assert len(list(tmp_path.rglob("*.png"))) == 2


def test_one_folder_for_all_of_a_readmes_lines(networks, call, tmp_path, monkeypatch, capsys):
    """`--outdir=out` each time, as published: images of other options are not mixed in, nor replaced unasked."""
    short = f"--seeds=0,1 --steps=2 --device=cpu --outdir={tmp_path}/out"
    call(f"{SAMPLING[0]} {short}")
    for command in SAMPLING[1:4]:
        code, _, err = scripts.call(monkeypatch, capsys, *f"{command} {short}".split())
        if "--subdirs" not in command:  # which makes other files
            assert code == 2 and "--overwrite" in err
        call(f"{command} {short} --overwrite")


def test_scores(networks, call, tmp_path):
    call(f"generate.py --seeds=0-2 --steps=1 --subdirs --network=networks/cifar10.pkl --outdir={tmp_path}/fid-tmp")
    ref = f"{tmp_path}/fid-refs/cifar10-32x32.npz"
    call(f"fid.py ref --data=datasets/cifar10-32x32.zip --dest={ref} --detector=random")
    out, _ = call(f"fid.py calc --images={tmp_path}/fid-tmp --ref={ref} --num=3")
    assert float(out.splitlines()[-1]) > 0
    call(f"example.py --model_path=networks/cifar10.pkl --output_path={tmp_path}/grid.png --num_steps=1")
    call(f"example.py --model_path=networks/cifar10.pkl --output_path={tmp_path}/grid.png --steps=1")
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (256, 256)
