"""Mistakes with discrete models: one line that names both sides and the fix, and exit code 2; nothing is written."""

import numpy as np
import pytest
import torch
from PIL import Image

from elucid.training.config.build import make_denoiser
from elucid.training.networks.adm_unet import ADMUNet
from elucid.training.registry.adm_options import network_options
from elucid.training.snapshots.snapshot import Snapshot, save_snapshot
from elucid.training.types import NetSpec
from tests import scripts
from tests.snapshots import save_random_upsampler

SMALL = {"name": "ddpmpp", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": []}
TRAIN = "train.py --data=DIR/pics8 --outdir=OUT --device=cpu --augment=0 --cbase=8 --cres=1,2 -n"
GENERATE = "generate.py --outdir=OUT --device=cpu --seeds=0-1 --network=DIR"
NLL = "evaluate.py nll --device=cpu --network=DIR"
MISTAKES = [
    # the process, when training
    (f"{TRAIN} --precond=ddpm --diffusion_steps=10", ["diffusion_steps=10: a beta of 1.11", "more --diffusion_steps"]),
    (f"{TRAIN} --precond=ddpm --beta_schedule=sine", ["'sine'", "'cosine'"]),
    (f"{TRAIN} --diffusion_steps=100", ["--diffusion_steps=100: --precond=edm", "use --precond=ddpm"]),
    (f"{TRAIN} --precond=ddpm --learn_sigma=1 --loss=simple", ["--learn_sigma=1, but --loss=simple", "use hybrid"]),
    (f"{TRAIN} --precond=ddpm --learn_sigma=0 --loss=hybrid", ["--learn_sigma=0, but the hybrid", "--loss=simple"]),
    (f"{TRAIN} --precond=ddpm --set=precond.variance=learned", ["'learned'", "small or large", "--learn_sigma=1"]),
    (f"{TRAIN} --learn_sigma=1", ["--loss=edm trains no variance", "--precond=ddpm"]),
    (f"{TRAIN} --loss=hybrid", ["needs discrete noise levels, EDMPrecond has none", "use --precond=ddpm"]),
    (f"{TRAIN} --set=loss.noise.name=loss_aware", ["needs discrete noise levels, EDMPrecond has none", "ddpm"]),
    (f"{TRAIN} --adm_preset=imagenet64", ["--adm_preset=imagenet64", "give --transfer"]),
    # the steps of sampling
    (f"{GENERATE}/ddpm.pkl --respacing=ddim600", ["exactly 600 of 1000 steps", "use ddim500"]),
    (f"{GENERATE}/ddpm.pkl --respacing=2000", ["2000 steps of the process with 1000", "from 1 to 1000"]),
    (f"{GENERATE}/ddpm.pkl --respacing=600,1", ["600 steps of one of its 2 sections", "with 500"]),
    (f"{GENERATE}/ddpm.pkl --respacing=often", ["'often'", '"ddim25"']),
    (f"{GENERATE}/ddpm.pkl --steps=2000", ["--steps=2000 exceeds the 1000 steps", "at most 1000"]),
    (f"{GENERATE}/ddpm.pkl --steps=10 --respacing=10", ["--steps=10 and --respacing=10", "one of them"]),
    # options of another sampler, and of another variance
    (f"{GENERATE}/ddpm.pkl --variance=learned", ["--variance=learned: the network has no", "small or large"]),
    (f"{GENERATE}/edm.pkl --sampler=ddpm --variance=learned", ["--variance=learned", "small or large"]),
    (f"{GENERATE}/edm.pkl --eta=1", ["--eta=1.0 is an option of ddim", "sampler edm", "use --sampler=ddim"]),
    (f"{GENERATE}/ddpm.pkl --sampler=edm --eta=0.5", ["--eta=0.5 is an option of ddim", "use --sampler=ddim"]),
    (f"{GENERATE}/ddpm.pkl --S_churn=3", ["--S_churn=3.0 is an option of edm", "sampler ddpm", "leave --S_churn out"]),
    (f"{GENERATE}/ddpm.pkl --sampler=ddim --eta=2", ["--eta", "2.0 is not in the range 0<=x<=1"]),
    (f"{GENERATE}/ddpm.pkl --threshold=0.9 --clip=0", ["--clip=0 and --threshold contradict", "use one of them"]),
    # classifiers
    (f"{GENERATE}/ddpm.pkl --classifier=DIR/clf16.pkl", ["image size, 16x16, must be the model's, 8x8"]),
    (f"{GENERATE}/ddpm.pkl --classifier=DIR/clfgray.pkl", ["channels, 1, must be the model's, 3"]),
    (f"{GENERATE}/ddpm.pkl --classifier=DIR/clf3.pkl", ["number of classes, 3, must be the model's, 2"]),
    (f"{GENERATE}/ddpm.pkl --classifier=DIR/cosine.pkl", ["1000 from 0.00", "the model's, 1000 from 0.01"]),
    (f"{GENERATE}/ddpm.pkl --classifier=DIR/edm.pkl", ["EDMPrecond, which generates images", "precond=classifier"]),
    # inversion and likelihood
    (f"{GENERATE}/ddpm.pkl --invert=DIR/pics16", ["pics16 are 3x16x16, those of the model 3x8x8", "resize"]),
    (f"{GENERATE}/ddpm.pkl --invert=DIR/pics8 --eta=1", ["--eta", "deterministic", "leave it out"]),
    (f"{GENERATE}/ddpm.pkl --invert=DIR/pics8 --sampler=ddpm", ["--sampler=ddpm cannot be inverted", "use ddim"]),
    (f"{GENERATE}/large.pkl --invert=DIR/pics8", ["--invert is not supported for models that enlarge images"]),
    (f"{NLL}/ddpm.pkl --data=DIR/pics16", ["--data: ", "size 16x16, the model 8x8"]),
    (f"{NLL}/large.pkl --data=DIR/pics16", ["likelihood of images is not supported for models that enlarge images"]),
    (f"{NLL}/ddpm.pkl --data=DIR/pics8 --respacing=2000", ["2000 steps of the process with 1000"]),
    (f"{NLL}/ddpm.pkl --data=DIR/pics8 --variance=learned", ["--variance=learned: the network has no", "small or"]),
    (f"{NLL}/cosine.pkl --data=DIR/pics8", ["DDPMClassifier, not a denoiser"]),
    # public state dicts
    (f"{GENERATE}/tiny.pt", ["no preset has the shapes of this U-Net", "--set network.OPTION=VALUE"]),
    (f"{GENERATE}/tiny.pt --adm_preset=imagenet64", ["num_channels=192, but the weights have 32", "its own options"]),
    (f"{GENERATE}/tiny.pt --set=network.image_size=16", ["do not tell num_heads or num_head_channels, noise_schedule"]),
    (f"{GENERATE}/tiny.pt --adm_preset=imagenet46", ["'imagenet46' (did you mean 'imagenet64'?)"]),
    (f"{GENERATE}/tiny.pt --num_res_blocks=1", ["here it is --set network.num_res_blocks=VALUE"]),
    (f"{TRAIN} --num_res_blocks=1", ["no option --num_res_blocks; here it is --set network.num_blocks="]),
    (f"{TRAIN} --noise_schedule=cosine", ["here it is --beta_schedule"]),
    (f"{TRAIN} --use_kl=True", ["here it is --loss, as in --loss=kl"]),
    (f"{GENERATE}/ddpm.pkl --use_ddim=True", ["here it is --sampler, as in --sampler=ddim"]),
    (f"{GENERATE}/ddpm.pkl --classifier_path=DIR/cosine.pkl", ["here it is --classifier"]),
    (f"{GENERATE}/ddpm.pkl --adm_preset=imagenet64", ["ddpm.pkl is no state dict", "leave out adm_preset"]),
    (f"{GENERATE}/ddpm.pkl --set=network.image_size=64", ["ddpm.pkl is no state dict", "leave out image_size"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Untrained models of 8x8 pictures and two classes, classifiers that do not fit them, and a state dict."""
    folder = tmp_path_factory.mktemp("discrete")
    for side in (8, 16):
        for kind in "ab":
            (folder / f"pics{side}" / kind).mkdir(parents=True)
            Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(folder / f"pics{side}/{kind}/0.png")
    for name, precond, side, channels, classes in (
        ("ddpm", {"name": "ddpm"}, 8, 3, 2),
        ("edm", {"name": "edm"}, 8, 3, 2),
        ("clf16", {"name": "ddpm_classifier"}, 16, 3, 2),
        ("clfgray", {"name": "ddpm_classifier"}, 8, 1, 2),
        ("clf3", {"name": "ddpm_classifier"}, 8, 3, 3),
        ("cosine", {"name": "ddpm_classifier", "beta_schedule": "cosine"}, 8, 3, 2),
    ):
        denoiser = make_denoiser(SMALL, precond, NetSpec((side, side), channels, vector={"labels": classes})).eval()
        own = {"sampler": {"name": "ddpm"}, "schedule": {"name": "respaced"}} if name == "ddpm" else {}
        save_snapshot(folder / f"{name}.pkl", Snapshot({"0": denoiser}, dataset={"class_names": None}, **own))
    save_random_upsampler(folder / "large.pkl")
    options = {"num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2", "attention_resolutions": "8"}
    options = network_options({**options, "image_size": 16, "num_heads": 2, "resblock_updown": True})
    network = ADMUNet(**options, in_channels=3, out_channels=6, vector={"labels": 5})
    torch.save(network.state_dict(), folder / "tiny.pt")
    return folder


@pytest.mark.parametrize("command, words", MISTAKES, ids=[command.partition(" ")[2] for command, _ in MISTAKES])
def test_one_line_with_both_sides_and_the_fix(command, words, place, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))
    command = command.replace("DIR", str(place)).replace("OUT", str(tmp_path / "out"))
    code, _, err = scripts.call(monkeypatch, capsys, *command.split())
    lines = [line for line in err.strip().splitlines() if not line.startswith("warning")]
    assert code == 2 and len(lines) == 1 and lines[0].startswith("error: "), err
    assert [word for word in words if word not in lines[0]] == [], err
    assert not (tmp_path / "out").exists()
