"""The tutorial `docs/how-to/own_loss.md` is true: its code and its commands, shortened, run as they are printed."""

import configparser
import json
import re
import shlex
import sys

import pytest

from elucid.dnnlib import plugins
from elucid.dnnlib.config import lookup
from elucid.training.losses.base import Loss
from elucid.training.registry.interfaces import INTERFACES
from elucid.training.registry.names import LOSSES
from tests import scripts

TEXT = (scripts.ROOT / "docs" / "how-to" / "own_loss.md").read_text()
SHORTER = {
    "dataset_tool.py": [],
    "train.py": [*scripts.TINY, "--duration=0.00016", "--batch=16", "--tick=0.08"],
    "generate.py": ["--seeds=0-3", "--steps=2", "--device=cpu"],
    "fid.py": ["--device=cpu"],
}


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """The words of every command."""
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the tutorial's file in it, where the commands are run."""
    for block in blocks("python"):
        name = re.match(r"# (\w+\.py)\n", block)[1]
        with open(tmp_path / name, "a") as file:
            file.write(block)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_the_commands_run(folder, monkeypatch, capsys):
    assert [words[0] for words in commands()] == ["python"] * len(commands())
    assert {words[1] for words in commands()} == SHORTER.keys()
    trained = []
    for _, script, *flags in commands():
        flags = [re.sub(r"network-snapshot-\d{6}", "network-snapshot-000000.160", flag) for flag in flags]
        flags = ["--num=4" if flag.startswith("--num=") else flag for flag in flags]
        code, out, err = scripts.call(monkeypatch, capsys, script, *flags, *SHORTER[script])
        assert code == 0, f"{script} {' '.join(flags)}\n{err}"
        if script == "train.py":
            outdir = next(flag for flag in flags if flag.startswith("--outdir=")).removeprefix("--outdir=")
            trained.append((json.loads((folder / outdir / "training_options.json").read_text())["loss"], outdir))
    (first, place), (chain, _), (patches, _) = trained
    assert first["name"] == "my_losses.py:MinSNR" and (first["gamma"], first["noise"]["P_mean"]) == (12, -1.2)
    line = json.loads((folder / place / "stats.jsonl").read_text().splitlines()[0])
    assert 0 < line["Loss/loss"]["mean"] < line["Loss/dsm"]["mean"], "the weight is cut off"
    assert (chain["times"], chain["base"]["gamma"]) == (3, 12)
    assert patches["name"] == "patch" and patches["base"]["base"]["noise"]["P_mean"] == -1
    assert (folder / "demo/min-snr.png").is_file()


def test_the_refusal_in_it(folder, monkeypatch, capsys):
    (script, *flags) = next(words[1:] for words in commands() if words[1] == "train.py")
    scripts.call(monkeypatch, capsys, *commands()[0][1:])
    changed = [flag.replace("gamma=12", "gamma=-1") for flag in flags]
    code, _, err = scripts.call(monkeypatch, capsys, script, "-n", *changed)
    assert code == 2 and "error: loss.gamma=-1 must be positive" in err
    code, _, err = scripts.call(monkeypatch, capsys, script, "-n", *[flag.replace("gamma", "gama") for flag in flags])
    assert code == 2 and "did you mean 'gamma'" in err


def test_the_entry_points_in_it(folder, monkeypatch):
    """Written as an installer would write them."""
    (block,) = blocks("toml")
    parser = configparser.ConfigParser()
    parser.read_string(block)
    (section,) = parser.sections()
    group = re.fullmatch(r'project\.entry-points\."(.*)"', section)[1]
    lines = [f"{name} = {json.loads(value)}" for name, value in parser[section].items()]
    info = folder / "mine-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]))
    monkeypatch.syspath_prepend(folder)
    plugins.installed.cache_clear()
    try:
        assert issubclass(lookup(LOSSES, "min-snr", "loss", INTERFACES["loss"]), Loss)
    finally:
        plugins.installed.cache_clear()
        sys.modules.pop("my_losses", None)


def test_its_table_names_what_there_is():
    groups = set(re.findall(r"`(elucid\.\w+)`", TEXT))
    assert groups == {groups[0] for groups in plugins.GROUPS.values()}
    hooks = set(re.findall(r"^\| `(\w+)\(", TEXT, flags=re.MULTILINE))
    assert hooks == {name for name, value in vars(Loss).items() if not name.startswith("_") and callable(value)}
