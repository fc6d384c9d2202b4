"""Help, versions and mistakes in flags and names are answered at once: without importing torch, within 100 columns."""

import subprocess
import sys

import pytest

from tests import scripts

COMMANDS = [
    "train -h",
    "generate -h",
    "fid calc -h",
    "fid ref -h",
    "dataset_tool -h",
    "dataset_tool verify -h",
    "example -h",
    "evaluate ensemble -h",
    "evaluate spectrum -h",
    "evaluate restoration -h",
]
MISTAKES = ["train --epochs=1", "train --arch=ddpm", "generate --samper=edm", "fid cacl", "dataset_tool --sorce=x"]


@pytest.mark.parametrize("line", [*COMMANDS, *MISTAKES, "main -h", "main --version"])
def test_answers_without_torch(line):
    name, *flags = line.split()
    code = f"""
import sys
sys.argv[1:] = {flags!r}
try:
    __import__("elucid.start").start.start({name!r})
finally:
    assert "torch" not in sys.modules, "torch was imported"
"""
    environment = {**scripts.environment(), "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=scripts.ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == (2 if line in MISTAKES else 0), done.stderr
    assert max(map(len, done.stdout.splitlines() or [""])) <= 100
    if line in MISTAKES:
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
