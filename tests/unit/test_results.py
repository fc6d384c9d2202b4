"""Results of evaluations: text, and the same after saving and loading."""

import pytest

from elucid.dnnlib.errors import UserError
from elucid.evaluation.results import Curve, Picture, Result, Series, Table, load_result, results_of

RESULT = Result(
    "svc",
    "agreement",
    0.97,
    (0.95, 0.98),
    lines=("500 samples",),
    tables=(Table("per class", ("class", "share"), (("cat", 0.123456), ("dog", None))),),
    curves=(Curve("loss", "sigma", "loss", (Series("held out", ((1.0, 2.0),), ((1.5, 2.5),)),), log_x=True),),
    pictures=(Picture("neighbours", "neighbours.png"),),
    about={"images": "samples"},
)


def test_text():
    assert RESULT.text().splitlines() == [
        "per class",
        "  class    share",
        "  cat    0.12346",
        "  dog",
        "500 samples",
        "agreement 0.97 (95 % interval 0.95 to 0.98)",
    ]


def test_saved_and_loaded(tmp_path):
    path = tmp_path / "evaluations" / "svc.json"
    RESULT.save(path)
    assert load_result(path) == RESULT
    assert results_of(tmp_path) == [path]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kind": 1}'])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(UserError, match="not a result of evaluate.py"):
        load_result(path)
