"""The version of torch stands in several files, and is the same in all."""

import re


def test_one_version_of_torch(root):
    pinned = re.search(r"^torch==(\S+)$", (root / "requirements.txt").read_text(), re.M)[1]
    assert f"ARG BASE=pytorch/pytorch:{pinned}-cuda" in (root / "Dockerfile").read_text()
    assert f"`requirements.txt`, {pinned};" in (root / "README.md").read_text()


def test_one_lower_bound_of_torch(root):
    bound = re.search(r'"torch>=([\d.]+)"', (root / "pyproject.toml").read_text())[1]
    for name in ("README.md", "docs/versions.md"):
        assert f"{bound} or newer" in (root / name).read_text(), name


def test_one_set_of_development_tools(root):
    extra = re.search(r"^dev = \[(.*)\]$", (root / "pyproject.toml").read_text(), re.M)[1]
    in_makefile = re.search(r"^DEV := (.*)$", (root / "Makefile").read_text(), re.M)[1]
    assert re.findall(r'"[^"]*"', in_makefile) == extra.split(", ")
