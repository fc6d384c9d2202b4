"""Results of evaluations: text, and the same after saving and loading."""

import json
from xml.etree import ElementTree

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
    drawn = ElementTree.parse(tmp_path / "evaluations" / "svc-1.svg").getroot()
    assert drawn.attrib["aria-label"].startswith("loss: loss against sigma")


def changed(**values) -> str:
    return json.dumps({**RESULT.as_dict(), **values})


OTHERS = ["", "[]", "{}", '{"kind": 1}', "[" * 100_000, changed(name=["x"]), changed(value=10**400), changed(about=1)]
OTHERS += [
    changed(curves=[{**RESULT.as_dict()["curves"][0], "series": [{"name": "a", "points": [[1, 2]], "intervals": []}]}])
]


@pytest.mark.parametrize("content", OTHERS, ids=range(len(OTHERS)))
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(UserError, match="not a result of evaluate.py|fix or remove it"):
        load_result(path)
