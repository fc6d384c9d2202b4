"""docs/fewstep.md: its commands are ones that can be given, and its presets are all that there are."""

import re
import shlex

import pytest

from elucid.training.config.presets.fewstep import FEWSTEP_PRESETS
from tests import scripts
from tests.snapshots import save_random_snapshot
from tests.vaes import save_pictures

PAGE = (scripts.ROOT / "docs" / "fewstep.md").read_text()
COMMANDS = [one for one in re.findall(r"`(train\.py [^`]*)`", PAGE) if "--" in one]
SMALL = ["--cbase=32", "--cres=1", "--set=network.num_blocks=1", "--device=cpu", "--batch=8", "--augment=0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return save_pictures(tmp_path_factory.mktemp("data") / "pictures.zip", count=16, size=8)


def test_all_presets_are_named():
    named = set()
    for row in re.findall(r"^\| (`[^|]*`) \|[^|]*\|[^|]*\|$", PAGE, re.MULTILINE):
        last = ""
        for name in re.findall(r"`([^`]*)`", row):
            if name.startswith("-"):
                stem = last
                while stem and stem + name not in FEWSTEP_PRESETS:
                    stem = stem.rpartition("-")[0]
                name = stem + name
            last = name
            named.add(name)
    assert set(FEWSTEP_PRESETS) <= named


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: one[:60])
def test_commands_can_be_given(command, data, tmp_path, monkeypatch, capsys):
    """With a small network and the pictures that the page has no name for; sources are there, a network fits or not."""
    source = save_random_snapshot(tmp_path / "edm.pkl", size=8)
    flags = [one.replace("edm.pkl", str(source)) for one in shlex.split(command)[1:]]
    given = [*flags, *SMALL, f"--data={data}", "--nosubdir", "--dry-run"]
    code, _, err = scripts.call(monkeypatch, capsys, "train.py", *given)
    assert code == 0, err
