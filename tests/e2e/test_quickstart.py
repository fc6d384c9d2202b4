"""The notebook `docs/quickstart.ipynb` is true: its cells, with shorter durations, run one after the other."""

import ast
import json

import pytest
from PIL import Image

from tests import scripts

BOOK = json.loads((scripts.ROOT / "docs" / "quickstart.ipynb").read_text())
CODE = ["".join(cell["source"]) for cell in BOOK["cells"] if cell["cell_type"] == "code"]
SHORT = {"duration": 0.00016, "steps": 2, "count": 70}
"""Variables of the first cell, instead of its own."""


def test_it_is_short_and_without_outputs():
    assert len(BOOK["cells"]) <= 15
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in BOOK["cells"])


def shown(code: str, names: dict) -> object:
    """Run a cell; the value of the expression at its end, which a notebook displays."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_its_cells_run(folder, capsys):
    names: dict = {}
    shown(CODE[0], names)
    assert SHORT.keys() <= names.keys()
    names |= SHORT
    results = [shown(code, names) for code in CODE[1:]]
    pictures = [result for result in results if isinstance(result, Image.Image)]
    assert len(pictures) == 5 and all(picture.getextrema() != (0, 0) for picture in pictures)
    states = sorted(path.name for path in (folder / "quickstart/runs").glob("*/training-state-*.pt"))
    assert len(states) == 2, states
    options = json.loads((names["own"] / "training_options.json").read_text())
    assert options["loss"]["gamma"] == 12 and options["loss"]["noise"]["P_mean"] == -1.2
    out = capsys.readouterr().out
    assert "1297 images of 16x16" in out and "all images and labels are valid" in out and "resuming" in out
    assert out.count("guidance ") == 3
