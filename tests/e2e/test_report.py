"""`evaluate.py report` and `elucid.report`: a page about runs in one file, or one line about what is wrong."""

import json

import numpy as np
import pytest
from PIL import Image

import elucid
from tests import scripts
from tests.run_folders import write_run
from tests.snapshots import save_random_snapshot


@pytest.fixture
def report(monkeypatch, capsys):
    def call(*args, code=0):
        found, out, err = scripts.call(monkeypatch, capsys, "evaluate.py", "report", *args)
        assert found == code, err
        return out if code == 0 else err

    return call


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two runs with snapshots of 8x8 images of two classes, their data, and samples."""
    folder = tmp_path_factory.mktemp("report")
    for name, count in (("data", 5), ("samples", 3)):
        (folder / name).mkdir()
        names = [f"{index}.png" for index in range(count)]
        for index, file in enumerate(names):
            Image.fromarray(np.full((8, 8, 3), 40 * index, dtype=np.uint8)).save(folder / name / file)
        labels = [[file, index % 2] for index, file in enumerate(names)]
        (folder / name / "dataset.json").write_text(json.dumps({"labels": labels, "class_names": ["cat", "dog"]}))
    options = {"dataset": {"path": str(folder / "data"), "reader": None, "use_labels": True}}
    for seed, run in enumerate(("runs/00000-one", "runs/00001-two")):
        write_run(folder / run, options)
        save_random_snapshot(folder / run / "network-snapshot-000004.pkl", classes=2, seed=seed)
    return folder


def alternatives(page: str) -> list[str]:
    """The texts of the pictures of single classes."""
    return [part.split('"')[0] for part in page.split('alt="')[1:] if ": " in part.split('"')[0]]


def test_two_runs_on_one_page(folder, report, tmp_path):
    dest = tmp_path / "new" / "report.html"
    runs = sorted((folder / "runs").iterdir())
    out = report(*runs, "-o", dest, "--per_class=2", "--device=cpu")
    assert out.splitlines()[-1] == str(dest) and list(dest.parent.iterdir()) == [dest]
    page = dest.read_text()
    texts = alternatives(page)
    for origin in ("Real", "00000-one", "00001-two"):
        assert [text for text in texts if text.startswith(origin)] == [f"{origin}: cat"] * 2 + [f"{origin}: dog"] * 2
    again = tmp_path / "again.html"
    elucid.report(runs, again, per_class=2, device="cpu")
    pictures = [[part.split('"')[0] for part in text.split('src="')[1:]] for text in (page, again.read_text())]
    assert pictures[0] == pictures[1]  # the same images each time


def test_given_samples_and_results(folder, report, tmp_path):
    dest, (run, *_) = tmp_path / "report.html", sorted((folder / "runs").iterdir())
    other = tmp_path / "other.json"
    from elucid.evaluation.results import Result

    Result("svc", "agreement", 0.75).save(other)
    report(run, f"--dest={dest}", f"--samples={folder}/samples", f"--results={other}", "--names=mine")
    page = dest.read_text()
    assert "agreement 0.75" in page and "<title>Training report: mine</title>" in page
    assert alternatives(page) == [*["Real: cat"] * 3, *["mine: cat"] * 2, *["Real: dog"] * 2, "mine: dog"]


def test_what_cannot_be_shown_is_said(folder, report, tmp_path):
    run = write_run(tmp_path / "run")  # without a snapshot, its data elsewhere
    report(run, "-o", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "The real images are not shown" in page and "There are no samples of run" in page
    report(run, "-o", tmp_path / "report.html", "--per_class=0")
    assert "not shown" not in (tmp_path / "report.html").read_text()


MISTAKES = {
    "{folder}/nowhere": "not a folder",
    "{folder}/samples": "holds no run",
    "{folder}/runs": "00001-two",
    "{run} --names=a,b": "--names",
    "{run} --samples={folder}/samples --samples={folder}/samples": "--samples",
    "{run} --samples={folder}/nothing": "nothing",
    "{run} --results={folder}/data/dataset.json": "not a result",
    "{run} --results={folder}/no.json": "no.json",
    "{run} --per_class=9": "--per_class",
    "{run} --grids=0": "--grids",
    "{run} --device=tpu": "--device",
    "": "run folder",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_mistakes_are_one_line_and_leave_nothing(line, folder, report, tmp_path):
    words = line.format(folder=folder, run=folder / "runs" / "00000-one").split()
    error = report(*words, "-o", tmp_path / "new" / "report.html", code=2)
    assert error.startswith("error: ") and error.count("\n") == 1 and MISTAKES[line] in error
    assert not list(tmp_path.iterdir())


def test_the_page_must_be_writable_before_any_work(folder, report, tmp_path):
    (tmp_path / "file").touch()
    error = report(folder / "runs" / "00000-one", "-o", tmp_path / "file" / "report.html", code=2)
    assert error.count("\n") == 1 and "report.html" in error
    assert "is a folder" in report(folder / "runs" / "00000-one", "-o", tmp_path, code=2)
