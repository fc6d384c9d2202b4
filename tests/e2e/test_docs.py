"""The documentation names what there is: files, flags, keys of the statistics."""

import json
import re
import shlex
from importlib import import_module

import click
import pytest

from tests import scripts

PAGES = [scripts.ROOT / "README.md", scripts.ROOT / "CONTRIBUTING.md", *sorted((scripts.ROOT / "docs").rglob("*.md"))]
COMMANDS = {
    script: import_module(f"elucid.commands.{script}").main
    for script in ("train", "generate", "fid", "dataset_tool", "evaluate", "example")
}


def name(path) -> str:
    return str(path.relative_to(scripts.ROOT))


def commands(text: str) -> list[list[str]]:
    """The words of every command line that calls a script, from its name on."""
    joined = text.replace("\\\n", " ")
    lines = re.findall(r"^ *(?:python(?! -c)|torchrun|docker run|elucid) .*$", joined, flags=re.MULTILINE)
    found = []
    for words in (shlex.split(line) for line in lines):
        start = next((n for n, word in enumerate(words) if word.removesuffix(".py") in COMMANDS), None)
        if start is not None:
            found.append(words[start:])
    return found


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_have_the_flags_that_are_written(page):
    for script, *words in commands(page.read_text()):
        command = COMMANDS[script.removesuffix(".py")]
        if isinstance(command, click.Group) and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        known = {option.replace("_", "-") for parameter in command.params for option in parameter.opts} | {"--help"}
        given = {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("-")}
        assert given - known <= {"--epochs"}, f"{script} {' '.join(words)}"  # which a page shows the answer to


def test_every_key_of_the_statistics_is_explained(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))
    scripts.call(
        monkeypatch, capsys, "dataset_tool.py", "--source=builtin:digits-test", f"--dest={tmp_path}/digits.zip"
    )
    short = ["--duration=0.000032", "--batch=16", "--precond=cdm", "--nosubdir", f"--outdir={tmp_path}/run"]
    scripts.call(monkeypatch, capsys, "train.py", f"--data={tmp_path}/digits.zip", *short, *scripts.TINY)
    keys = json.loads((tmp_path / "run/stats.jsonl").read_text().splitlines()[-1]).keys()
    text = (scripts.ROOT / "docs" / "operators.md").read_text()
    of_losses = {"Loss/dsm": "`dsm`", "Loss/consistency": "`consistency`"}
    assert [key for key in keys if of_losses.get(key, f"`{key}`") not in text] == []
    files = {re.sub(r"\d{6}(\.\d+)?", "NNNNNN", path.name) for path in (tmp_path / "run").iterdir()}
    assert [file for file in files if f"`{file}`" not in text] == []
