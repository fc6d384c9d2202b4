"""docs/transformers.md: its commands run, its figures are the presets', and the flags that its tables name exist."""

import re
from importlib import import_module

import pytest
import torch

from elucid.commands.flags.foreign import FOREIGN_FLAGS
from elucid.dnnlib import errors
from elucid.training.config.presets.transformers import TRANSFORMER_PRESETS
from elucid.training.registry.public_transformers import GUIDED
from elucid.training.registry.transformer_options import SIZES
from tests import scripts
from tests.vaes import as_hub_download, save_pictures, save_tiny_vae

PAGE = (scripts.ROOT / "docs" / "transformers.md").read_text()
COMMANDS = [
    line.strip().removeprefix("python ")
    for block in re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]
PROGRAMS = ("DiT", "SiT", "JiT", "REPA", "LightningDiT", "DDT")
FLAGS = {
    option
    for script in ("train", "generate")
    for parameter in import_module(f"elucid.commands.{script}").main.params
    for option in parameter.opts
}
WIDTH, HEADS = 24, 2
NARROW = {
    "dit": {"depth": 1, "model_channels": WIDTH, "num_heads": HEADS},
    "jit": {"depth": 2, "model_channels": WIDTH, "num_heads": HEADS, "bottleneck": 4, "context_start": 1},
    "ddt": {"depth": 2, "model_channels": WIDTH, "num_heads": HEADS, "encoder_depth": 1},
}
"""Sizes that take the place of XL, and of JiT's B, so that the page's files are small."""


def rows(heading: str) -> list[list[str]]:
    text = PAGE.partition(f"### {heading}\n")[2].partition("\n##")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("program", PROGRAMS)
def test_flags(program):
    """Ours exist; theirs, where the page names them, do too, or are answered with one of ours."""
    assert len(rows(program)) >= 2
    for theirs, ours in rows(program):
        named = set(re.findall(r"(--[a-zA-Z][\w-]*)", ours))
        assert named <= FLAGS and (named or ours.startswith(("not there", "leave out"))), ours
        for flag in re.findall(r"`(?:\w+\.py \w* ?)?(--[a-zA-Z][\w-]*)`", theirs):
            hint = FOREIGN_FLAGS.get(flag.lstrip("-").replace("-", "_"), "")
            own = {one.replace("_", "-") for one in FLAGS}
            assert flag in own or ours.startswith(("not there", "leave out")) or any(one in hint for one in named), flag


def test_presets():
    """The tables have all presets for training, and the published guidance as it is set."""
    text = PAGE.partition("## Train")[2].partition("## Sizes")[0]
    named = set()
    for line in text.splitlines():
        cell = line.strip("|").split("|")[0]
        last = ""
        for name in re.findall(r"`([\w-]+)`", cell) if line.startswith("| `") else ():
            last = name if not name.startswith("-") else f"{last.rpartition('-')[0]}{name}"
            named.add(last)
    assert named == set(TRANSFORMER_PRESETS)
    found = {}
    for line in PAGE.partition("## Sizes")[2].partition("\n## ")[0].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        names = re.findall(r"`([\w-]+-(?:64|256|512|800|ode|sde))`", cells[0])
        if len(cells) > 5 and names and set(names) <= set(GUIDED):
            scales = [float(one) for one in re.findall(r"[\d.]+", cells[1].partition("(")[0])]
            for index, name in enumerate(names):
                found[name] = (scales[min(index, len(scales) - 1)], cells[2], cells[3])
    assert set(found) == set(GUIDED)
    for name, one in GUIDED.items():
        times = "all" if one.interval_t is None else f"0 to {one.interval_t[1]:g}"
        scale, interval, channels = found[name]
        assert (scale, interval) == (one.guidance, times), name
        assert channels == "all" if one.channels is None else channels.startswith("3 of "), name


def state_dict(family: str) -> dict[str, torch.Tensor]:
    """A small state dict of the family's form; ten classes, and 32x32 latents or pixels of 32x32."""
    doubled, channels, patch = family in ("dit", "sit"), {"jit": 3, "lightningdit": 32}.get(family, 4), 2
    patch = {"jit": 16, "lightningdit": 1}.get(family, 2)
    shapes = {
        "t_embedder.mlp.0.weight": (WIDTH, 256),
        "t_embedder.mlp.0.bias": (WIDTH,),
        "t_embedder.mlp.2.weight": (WIDTH, WIDTH),
        "t_embedder.mlp.2.bias": (WIDTH,),
        "y_embedder.embedding_table.weight": (11, WIDTH),
    }
    place, n_out = "01"[family != "ddt"], patch * patch * channels * (1 + doubled)
    for index in range(2 if family in ("jit", "ddt") else 1):
        block = f"blocks.{index}."
        shapes |= {f"{block}attn.qkv.weight": (3 * WIDTH, WIDTH), f"{block}attn.proj.weight": (WIDTH, WIDTH)}
        shapes |= {f"{block}attn.proj.bias": (WIDTH,)}
        shapes |= {f"{block}adaLN_modulation.{place}.weight": (6 * WIDTH, WIDTH)}
        shapes |= {f"{block}adaLN_modulation.{place}.bias": (6 * WIDTH,)}
        if family != "ddt":
            shapes |= {f"{block}attn.qkv.bias": (3 * WIDTH,)}
        if family in ("jit", "ddt"):
            shapes |= {f"{block}attn.{one}_norm.weight": (WIDTH // HEADS,) for one in "qk"}
        if family in ("jit", "ddt", "lightningdit"):
            shapes |= {f"{block}norm{one}.weight": (WIDTH,) for one in "12"}
        if family == "ddt":
            shapes |= {f"{block}mlp.w1.weight": (64, WIDTH), f"{block}mlp.w3.weight": (64, WIDTH)}
            shapes |= {f"{block}mlp.w2.weight": (WIDTH, 64)}
        elif family in ("jit", "lightningdit"):
            shapes |= {f"{block}mlp.w12.weight": (128, WIDTH), f"{block}mlp.w12.bias": (128,)}
            shapes |= {f"{block}mlp.w3.weight": (WIDTH, 64), f"{block}mlp.w3.bias": (WIDTH,)}
        else:
            shapes |= {f"{block}mlp.fc1.weight": (4 * WIDTH, WIDTH), f"{block}mlp.fc1.bias": (4 * WIDTH,)}
            shapes |= {f"{block}mlp.fc2.weight": (WIDTH, 4 * WIDTH), f"{block}mlp.fc2.bias": (WIDTH,)}
    shapes |= {"final_layer.linear.weight": (n_out, WIDTH), "final_layer.linear.bias": (n_out,)}
    shapes |= {f"final_layer.adaLN_modulation.{place}.weight": (2 * WIDTH, WIDTH)}
    shapes |= {f"final_layer.adaLN_modulation.{place}.bias": (2 * WIDTH,)}
    if family == "jit":
        shapes |= {"x_embedder.proj1.weight": (4, 3, 16, 16), "x_embedder.proj2.weight": (WIDTH, 4, 1, 1)}
        shapes |= {"x_embedder.proj2.bias": (WIDTH,), "in_context_posemb": (1, 3, WIDTH), "pos_embed": (1, 4, WIDTH)}
    elif family == "ddt":
        shapes |= {f"{one}_embedder.proj.weight": (WIDTH, 16) for one in "xs"}
        shapes |= {f"{one}_embedder.proj.bias": (WIDTH,) for one in "xs"}
    else:
        shapes |= {"x_embedder.proj.weight": (WIDTH, channels, patch, patch), "x_embedder.proj.bias": (WIDTH,)}
        shapes |= {"pos_embed": (1, 256 if family != "lightningdit" else 64, WIDTH)}
    if family in ("jit", "lightningdit"):
        shapes |= {"final_layer.norm_final.weight": (WIDTH,)}
    if family == "lightningdit":
        shapes |= {f"feat_rope.freqs_{one}": (64, WIDTH // HEADS) for one in ("cos", "sin")}
    if family == "repa":
        shapes |= {"projectors.0.0.weight": (8, WIDTH)}
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}


def prefixed(prefix: str, weights: dict) -> dict:
    return {prefix + name: value for name, value in weights.items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Stand-ins for the files, the pictures and the autoencoders that the page names."""
    pytest.importorskip("diffusers")
    folder = tmp_path_factory.mktemp("page")
    (folder / "datasets").mkdir()
    save_pictures(folder / "datasets/imagenet256.zip")
    save_tiny_vae(folder / "VAVAE", 32)
    as_hub_download(save_tiny_vae(folder / "vae"), folder / "hub", "stabilityai/sd-vae-ft-ema")
    for name, family in (("DiT-XL-2-256x256", "dit"), ("SiT-XL-2-256x256", "sit"), ("weights", "sit")):
        torch.save(state_dict(family), folder / f"{name}.pt")
    jit = {f"model_ema{one}": prefixed("net.", state_dict("jit")) for one in (1, 2)}
    torch.save({"model": jit["model_ema1"], **jit, "epoch": 600}, folder / "JiT-B-16.pth")
    torch.save({"ema": state_dict("repa"), "steps": 400}, folder / "REPA-SiT-XL-2.pt")
    torch.save({"ema": state_dict("lightningdit")}, folder / "LightningDiT-XL-1.pt")
    ddt = {**prefixed("denoiser.", state_dict("ddt")), **prefixed("ema_denoiser.", state_dict("ddt"))}
    torch.save({"state_dict": ddt}, folder / "DDT-XL-2-R256.ckpt")
    return folder


@pytest.fixture(scope="module")
def call(place):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("ELUCID_CACHE", str(place / "cache"))
        for constants in ("huggingface_hub.constants", "diffusers.utils.constants"):
            patch.setattr(f"{constants}.HF_HUB_CACHE", str(place / "hub"), raising=False)

        def run(capsys, command, *more):
            command = command.replace("=MEAN", f"={[0.0] * 32}".replace(" ", ""))
            command = command.replace("=STD", f"={[1.0] * 32}".replace(" ", ""))
            with pytest.MonkeyPatch.context() as inner:
                for family, name in (("dit", "xl"), ("lightningdit", "xl"), ("jit", "b"), ("ddt", "xl")):
                    if command.startswith("generate") or command.startswith("export"):
                        inner.setitem(SIZES[family], name, NARROW.get(family, NARROW["dit"]))
                code, out, err = scripts.call(inner, capsys, *command.split(), *more)
            assert code == 0, f"{command}\n{err}"
            return out + err

        yield run


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith("train.py")])
def test_training(command, call, capsys):
    """Each preset with its whole network, which has no weights in a dry run; a small encoder stands for DINOv2."""
    more = ["--set=loss.features.name=efflite0"] if "repa" in command or "ddt" in command else []
    assert "nothing written" in call(capsys, command, *more, "--dry-run", "--device=cpu")


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith("generate.py")])
def test_sampling(command, call, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(errors, "_noted", set())
    few = "--respacing=2" if "DiT-XL-2-256" in command and "Lightning" not in command else "--steps=2"
    said = call(capsys, command, "--seeds=0,1", few, "--device=cpu", f"--outdir={tmp_path}/out")
    assert len(list((tmp_path / "out").rglob("*.png"))) == 2
    assert ("model_ema2 is used" in said) == ("model_ema2" in command)
    assert ("projectors" in said) == ("REPA" in command)


def test_a_run_starts_from_a_file(call, capsys):
    network = f"--arch=sit --set=network.depth=1 --cbase={WIDTH} --set=network.num_heads={HEADS}"
    flow = "--precond=flow --set=precond.time=data --train_on_latents=1 --augment=0 --cond=1"
    short = "--duration=0.000004 --batch=4 --outdir=runs --cache=0 --device=cpu --set=loop.grid_images=1"
    source = "--transfer=weights.pt --set=schedule.num_steps=1 --checkpoint_model=SiT-XL/2"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES["sit"], "xl", NARROW["dit"])
        said = call(capsys, f"train.py --data=datasets/imagenet256.zip {network} {flow} {short} {source}")
    left = re.search(r"transferred \d+ of \d+ tensors.*left as initialised: (.*?);", said)[1]
    assert left == "model.y_embedder.embedding_table.weight"  # of other classes


def test_writing(call, place, capsys):
    (command,) = [one for one in COMMANDS if one.startswith("export.py")]
    call(capsys, command)
    ours, theirs = torch.load(place / "again.pt"), torch.load(place / "DiT-XL-2-256x256.pt")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs if name != "pos_embed")


MISTAKES = [
    ("--network=weights.pt", "fit a DiT and a SiT alike; say which by --model"),
    ("--network=weights.pt --model=SiT-XL/4", "--model=SiT-XL/4 has patch=4, but the weights have 2"),
    ("--network=SiT-XL-2-256x256.pt --set=network.num_classes=1000", "num_classes=1000, but the weights have 10 and"),
    (
        "--network=JiT-B-16.pth --model=JiT-B/32",
        "has patch=32, but the weights have 16; use JiT-B/16",
    ),
    ("--network=weights.pt --model=SiT-XXL/2", "unknown model 'SiT-XXL/2' (did you mean 'SiT-XL/2'?)"),
]


@pytest.mark.parametrize(("flags", "message"), MISTAKES, ids=lambda one: one[:40])
def test_mistakes_end_with_code_2(flags, message, call, place, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(SIZES["dit"], "xl", NARROW["dit"])
    monkeypatch.setitem(SIZES["jit"], "b", NARROW["jit"])
    code, _, err = scripts.call(monkeypatch, capsys, "generate.py", *flags.split(), f"--outdir={tmp_path}/out")
    assert code == 2 and message in err
    assert len([line for line in err.splitlines() if line.startswith("error:")]) == 1 or "unknown model" in err
    assert not (tmp_path / "out").exists()


def test_all_commands_are_typed():
    assert len(COMMANDS) > 12 and all(one.startswith(("train.py", "generate.py", "export.py")) for one in COMMANDS)
