"""docs/adm.md: its commands run, and the flags, options and presets that its tables name exist."""

import re
from importlib import import_module

import numpy as np
import pytest
import torch
from PIL import Image

from elucid.commands.flags.foreign import FOREIGN_FLAGS
from elucid.dnnlib.values import signature
from elucid.training.config.build import make_denoiser
from elucid.training.config.presets.table import PRESETS
from elucid.training.networks.adm_unet import ADMUNet
from elucid.training.registry.adm_options import DIFFUSION, OTHERS, RENAMED, network_options
from elucid.training.registry.adm_presets import PRESETS as ADM_PRESETS
from elucid.training.registry.components import find
from elucid.training.registry.names import NOISES
from elucid.training.snapshots.snapshot import Snapshot, save_snapshot
from elucid.training.types import NetSpec
from tests import scripts
from tests.snapshots import save_random_upsampler

PAGE = (scripts.ROOT / "docs" / "adm.md").read_text()
COMMANDS = [
    line.strip().removeprefix("python ")
    for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
NAMES = ("EDM_SNAPSHOT", "SNAPSHOT", "CLASSIFIER", "BASE", "UPSAMPLER", "64x64_diffusion.pt", "model.pt", "pictures/")
NAMES = (*NAMES, "small/")
OWN_OPTIONS = "image_size=8 num_heads=2 noise_schedule=linear".split()
PARTS = {
    "network": [("network", "adm_unet"), ("network", "adm_classifier")], "precond": [("preconditioner", "ddpm")],
    "loss": [("loss", "hybrid")], "optimizer": [("optimizer", "adamw")], "ema": [("ema", "halflife")],
    "lr_schedule": [("lr_schedule", "linear")], "schedule": [("schedule", "respaced")],
    "sampler": [("sampler", "ddpm"), ("sampler", "ddim")],
}  # fmt: skip


def rows() -> list[tuple[str, str, str]]:
    """The script, their flags and ours of each row of the tables of flags."""
    found, script = [], ""
    for line in PAGE.partition("## Flags, theirs and ours")[2].splitlines():
        heading = re.match(r"### .*`(\w+)\.py`", line)
        script = heading[1] if heading else script
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| `"):
            found.append((script, cells[0], cells[1]))
    return found


def flags_of(script: str) -> set[str]:
    command = import_module(f"elucid.commands.{script}").main
    return {option for parameter in command.params for option in parameter.opts}


def exists(script: str, path: str, value: str) -> bool:
    """Whether `--set path=value` names an option that there is."""
    part, _, option = path.partition(".")
    if script == "generate" and part == "network":
        return option in {*RENAMED, *OTHERS, *DIFFUSION}
    if path == "loss.noise.name":
        return value in NOISES
    return any(option in signature(find(kind, name)).parameters for kind, name in PARTS[part])


@pytest.mark.parametrize("script, theirs, ours", rows(), ids=[theirs for _, theirs, _ in rows()])
def test_the_flags_we_name_exist(script, theirs, ours):
    known = flags_of(script)
    words = re.sub(r"[`,]", " ", re.sub(r"\[.*?\]", "[]", ours)).split()
    assert ours == "none" or any(word.startswith("--") for word in words)
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("--"):
            assert word.partition("=")[0] in known, word
        if word == "--set":
            path, _, value = following.partition("=")
            assert exists(script, path, value), following
    for name in re.findall(r"`(\w+)`", theirs) if ours != "none" else ():
        assert f"--{name}" in known or FOREIGN_FLAGS[name].split()[0].rstrip(",:;") in known, name


def test_all_flags_are_there_once():
    assert len(rows()) > 40 and {script for script, _, _ in rows()} == {"train", "generate"}
    for word in re.findall(r"--set[ =]([\w.]+)=([\w.]+)", PAGE.partition("## Public")[0]):
        assert exists("train", *word), word


def test_all_presets_are_there():
    named = re.findall(r"`((?:ddpm|landscape|adm)-[a-z0-9-]+)`", PAGE)
    ours = [name for name in PRESETS if re.match("(ddpm|landscape|adm)-", name)]
    assert set(named) == set(ours)
    assert all(f"`{name}`" in PAGE for name in ADM_PRESETS)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Stand-ins for the models and pictures that the page names."""
    folder = tmp_path_factory.mktemp("page")
    for side, name in ((8, "pictures"), (64, "datasets"), (8, "small")):
        for kind in "ab":
            (folder / name / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((side, side, 3), 9, np.uint8)).save(folder / name / kind / "0.png")
    Image.fromarray(np.full((8, 8, 3), 9, np.uint8)).save(folder / "one.png")
    small = {"name": "ddpmpp", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": []}
    discrete = {"sampler": {"name": "ddpm"}, "schedule": {"name": "respaced"}}
    for name, precond, channels, more in (
        ("SNAPSHOT", "ddpm", 6, discrete),
        ("BASE", "ddpm", 3, discrete),
        ("EDM_SNAPSHOT", "edm", 3, {}),
        ("CLASSIFIER", "ddpm_classifier", 3, {}),
    ):
        spec = NetSpec((8, 8), 3, out_channels=channels, vector={"labels": 2})
        denoiser = make_denoiser(small, {"name": precond}, spec).eval()
        save_snapshot(folder / name, Snapshot({"0": denoiser}, dataset={"class_names": ["a", "b"]}, **more))
    save_random_upsampler(folder / "UPSAMPLER", size=16, classes=2, class_names=["a", "b"])
    options = {"num_channels": 32, "num_res_blocks": 1, "channel_mult": "1,2", "image_size": 8, "num_heads": 2}
    state = ADMUNet(**network_options(options), in_channels=3, out_channels=6, vector={"labels": 2}).state_dict()
    for name in ("64x64_diffusion.pt", "model.pt"):
        torch.save(state, folder / name)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_run(command, place, tmp_path, monkeypatch, capsys):
    """Training as far as --dry-run; sampling in two steps, with networks that know nothing."""
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))
    words = [re.sub(f"(?<==)({'|'.join(NAMES)})$", rf"{place}/\1", word) for word in command.split()]
    if words[0] == "train.py":
        words = [re.sub(r"^--data=.*", f"--data={place}/datasets", word) for word in words]
        words = [*words, "--dry-run", "--device=cpu"]
    elif words[0] == "generate.py":
        words = [re.sub(r"^--outdir=.*", f"--outdir={tmp_path}/out", word) for word in words]
        words += ["--seeds=0-1", "--device=cpu"] if "--class_dirs" not in words else ["--per_class=1", "--device=cpu"]
        words.append("--steps=2" if any(word.startswith("--steps") for word in words) else "--respacing=2")
        if ".pt" in command:
            words = [word for word in words if not word.startswith(("--adm_preset", "--set"))]
            words += [f"--set=network.{one}" for one in OWN_OPTIONS]
    else:
        words = [re.sub(r"^--(data|num)=.*", "", word) for word in words]
        words = [*filter(None, words), f"--data={place}/pictures", "--respacing=2", "--device=cpu"]
    code, out, err = scripts.call(monkeypatch, capsys, *words)
    assert code == 0, err
    assert "nothing written" in out or words[0] == "evaluate.py" or list((tmp_path / "out").rglob("*.png"))
