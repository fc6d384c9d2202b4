"""docs/edm2.md: its commands run, its figures are the presets', and the flags that its tables name exist."""

import re
from importlib import import_module

import numpy as np
import pytest
from PIL import Image

from elucid import SampleOptions, TrainOptions
from elucid.commands.flags.foreign import FOREIGN_FLAGS, FOREIGN_FLAGS_OF_TRAINING
from elucid.dnnlib.errors import UserError
from elucid.training.config.presets.edm2 import EDM2_PRESETS, SIZES
from elucid.training.registry.edm2_pairs import PAIRS
from elucid.training.registry.names import TABLES
from tests import published, scripts, vectors
from tests.vaes import as_hub_download, save_tiny_vae

PAGE = (scripts.ROOT / "docs" / "edm2.md").read_text()
COMMANDS = [
    line.strip().removeprefix("python ")
    for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
SCRIPTS = {"train_edm2": "train", "generate_images": "generate"}
CASES = vectors.cases("edm2/sampler*")


def rows(heading: str) -> list[list[str]]:
    """The cells of the rows of the first table under a heading."""
    text = PAGE.partition(f"### `{heading}.py`")[2].partition("\n##")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("script", SCRIPTS)
def test_flags(script):
    """Ours exist; theirs do, too, or are answered with ours."""
    ours_at = import_module(f"elucid.commands.{SCRIPTS[script]}").main
    known = {option for parameter in ours_at.params for option in parameter.opts}
    foreign = FOREIGN_FLAGS | (FOREIGN_FLAGS_OF_TRAINING if script == "train_edm2" else {})
    assert len(rows(script)) > 4
    for theirs, ours in rows(script):
        named = re.findall(r"(--?[a-zA-Z][\w-]*)", ours)
        assert set(named) <= known, ours
        for flag in re.findall(r"`(--?[a-zA-Z][\w-]*)`", theirs):
            hint = foreign.get(flag.lstrip("-").lower(), "")
            assert flag in known or any(hint.startswith(name) for name in named), flag
            assert flag in known or not ours.startswith("the same"), flag


def test_training_presets():
    """Sizes, rates, durations and levels in the tables are those of the presets."""
    assert set(re.findall(r"`(edm2-img(?:512|64)-x*[sml])`", PAGE)) == set(EDM2_PRESETS)
    sizes = re.findall(r"^\| (X*[SML]) \| (\d+) \|.*\| ([\d.]+) \|$", PAGE, flags=re.MULTILINE)
    assert {name.lower(): int(channels) for name, channels, _ in sizes} == SIZES
    rates = {name.lower(): float(rate) for name, _, rate in sizes}
    for names, durations, decay, dropout, levels in (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.splitlines()
        if line.startswith("| `edm2-img") and "steps" in line
    ):
        names, lengths = re.findall(r"`(.*?)`", names), durations.split(", ")
        for name, mi in zip(names, lengths * len(names) if len(lengths) == 1 else lengths, strict=False):
            flags = TrainOptions(preset=name, data="x.zip").flags()
            noise = [one.partition("=")[2] for one in flags["set"] if ".noise." in one]
            reference = int(decay.split()[0].replace(",", "")) * 2048 / 1e6
            assert round(flags["duration"] * 1e6) == int(mi) * 2**20 and flags["dropout"] == float(dropout)
            assert noise == levels.split(", ") and f"lr_schedule.reference_mimg={reference}" in flags["set"]
            assert flags["lr"] == rates[name.rpartition("-")[2]]


def test_pairs():
    """Each preset of generate.py stands in the tables with its lengths and its scale."""
    found = {}
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for index, cell in enumerate(cells):
            match = re.fullmatch(r"`((?:edm2-img(?:512|64)-)?[a-z-]*(?:fid|dino))`", cell)
            if match:
                name = match[1] if match[1].startswith("edm2") else f"edm2-img512-{match[1]}"
                found[name] = [float(one) for text in cells[index + 1 :] for one in re.findall(r"\d+\.\d+", text)]
    found |= {name: [float(std)] for name, std in re.findall(r"`(edm2-img64-\w+-fid)` [\d.]+\s\(([\d.]+)\)", PAGE)}
    assert set(found) == set(PAIRS)
    for name, pair in PAIRS.items():
        lengths = [pair.network.std] if pair.guide is None or "-guid-" in name else [pair.network.std, pair.guide.std]
        wanted = lengths if pair.guidance is None else [*lengths, pair.guidance]
        assert found[name][: len(wanted)] == wanted, name


def test_pairs_as_options():
    assert SampleOptions(preset="edm2-img512-s-fid").guidance is None
    assert SampleOptions(preset="edm2-img512-s-autog-fid", guide="x.pkl").guidance == 2.1
    assert SampleOptions(preset="edm2-img512-s-autog-fid", guide="x.pkl", guidance=3).guidance == 3
    for preset, wanted in (
        ("edm2-img64-s-autog-fid", "edm2-img64-xs-0134217-0.110.pkl"),
        ("edm2-img512-s-fidd", "did you mean"),
    ):
        with pytest.raises(UserError, match=wanted):
            SampleOptions(preset=preset)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Stand-ins for the networks and pictures that the page names."""
    folder = tmp_path_factory.mktemp("page")
    case, _ = vectors.load(CASES[0])
    network, guide = (case["network"], case["parameters"]), (case["guide_auto"], case["guide_auto_parameters"])
    for name, (kwargs, shapes) in (("NETWORK", network), ("GUIDE", guide)):
        content = published.edm2_checkpoint(case["salt"], kwargs, shapes)
        (folder / f"{name}-0.050.pkl").write_bytes(published.dumps(content))
    rng = np.random.default_rng(0)
    for index in range(20):
        path = folder / "imagenet/train" / str(index % 10) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(path)
    (folder / "datasets").mkdir()
    return folder


@pytest.fixture(scope="module")
def call(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("ELUCID_CACHE", str(place / "cache"))

        def run(capsys, *words):
            words = [re.sub(r"^((?:--\w+=)?)(NETWORK|GUIDE)$", r"\1\2-0.050.pkl", word) for word in words]
            with pytest.MonkeyPatch.context() as inner:
                code, out, err = scripts.call(inner, capsys, *words)
            assert code == 0, f"{words}\n{err}"
            return out + err

        yield run


@pytest.fixture
def pictures(place, call, capsys):
    """datasets/img64.zip by the page's own command, of smaller pictures, and out/ with samples."""
    command = next(one for one in COMMANDS if one.startswith("dataset_tool.py convert"))
    if not (place / "datasets/img64.zip").exists():
        call(capsys, *command.replace("64x64", "16x16").split())
        call(capsys, "generate.py", "--net=NETWORK", "--outdir=out", "--seeds=0-3", "--steps=1", "--device=cpu")
    return place


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith("train.py")])
def test_training(command, pictures, call, capsys):
    words = command.split()
    preset = next((word.partition("=")[2] for word in words if word.startswith("--preset")), None)
    if preset is not None:
        words.append("--cbase=16")
        for kind, name in (("ema", "power"), ("encoder", "edm2_vae")):
            if any(one == f"{kind}.name={name}" for one in EDM2_PRESETS[preset]["set"]) and name not in TABLES[kind]:
                pytest.skip(f"no {kind} {name}")
    if "img512" in command:
        words = [re.sub("img512-sd.zip", "img64.zip", word) for word in words]
        save_tiny_vae(pictures / "vae")
        words.append("--set=encoder.model=vae")
    assert "nothing written" in call(capsys, *words, "--dry-run", "--device=cpu")


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith("generate.py")])
def test_sampling(command, pictures, call, tmp_path, capsys):
    said = call(capsys, *command.split(), "--seeds=0,1", "--steps=2", "--device=cpu", f"--outdir={tmp_path}/out")
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2
    assert ("length 0.045" in said and "length 0.110" in said) == ("--preset" in command)  # the files are named 0.050


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith(("fid.py", "evaluate.py"))])
def test_scores(command, pictures, call, capsys):
    if not command.startswith("fid.py ref") and not (pictures / "img64.npz").exists():
        call(capsys, "fid.py", "ref", "--data=datasets/img64.zip", "--dest=img64.npz", "--detector=random")
    words = ["--num=4" if word.startswith("--num") else word for word in command.split()]
    words += ["--seeds=0-3"] if any(word.startswith("--seeds") for word in words) else []
    words += ["--steps=1"] if any(word.startswith("--net") or word == "NETWORK" for word in words) else []
    if words[1] == "ref":
        words += ["--detector=random", "--overwrite"] if "--overwrite" in words else ["--detector=random"]
        words = [re.sub("img64.npz", "other.npz", word) for word in words]
    words += ["--rounds=1"] if words[1] == "sweep" else []
    out = call(capsys, *words, "--device=cpu")
    assert words[1] == "ref" or re.search(r"^[\d.]+$", out, flags=re.MULTILINE)


def test_latents(pictures, call, capsys, monkeypatch):
    pytest.importorskip("diffusers")
    as_hub_download(save_tiny_vae(pictures / "vae"), pictures / "hub", "stabilityai/sd-vae-ft-mse")
    for constants in ("huggingface_hub.constants", "diffusers.utils.constants"):
        monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(pictures / "hub"), raising=False)
    (command,) = [one for one in COMMANDS if one.startswith("dataset_tool.py encode")]
    call(capsys, *command.replace("img512.zip", "img64.zip").split())
    assert (pictures / "datasets/img512-sd.zip").exists()


def test_all_commands_are_typed():
    programs = ("train.py", "generate.py", "fid.py", "evaluate.py", "dataset_tool.py convert", "dataset_tool.py encode")
    assert len(COMMANDS) > 10 and all(command.startswith(programs) for command in COMMANDS)
