"""Run folders from strangers: pipes in place of files and odd JSON neither hang nor end in a traceback."""

import os

import pytest

import elucid
from elucid.api.export import to_folder
from elucid.dnnlib.errors import UserError
from elucid.evaluation.report.collect import read_run
from tests.snapshots import save_random_snapshot

DEEP = "[" * 100_000
ODD = ["[1]", "1", DEEP, '{"Loss/loss": {"mean": "x"}}', '{"Progress/kimg": {"mean": 1}, "Loss/loss": {"mean": "x"}}']


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    save_random_snapshot(folder / "network-snapshot-000001.pkl")
    (folder / "training_options.json").write_text('{"loop": {}}')
    return folder


@pytest.mark.parametrize("name", ["run.json", "stats.jsonl"])
def test_pipes_are_not_waited_for(run, tmp_path, name):
    os.mkfifo(run / name)
    assert any("pipe" in note for note in read_run(run, "run").notes)
    to_folder(run, tmp_path / "card")
    assert (tmp_path / "card" / "README.md").is_file()


@pytest.mark.parametrize("text", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("name", ["run.json", "stats.jsonl", "training_options.json"])
def test_odd_json(run, tmp_path, name, text):
    (run / name).write_text(text)
    card = tmp_path / "card"
    to_folder(run, card)
    assert "## Use" in (card / "README.md").read_text()


@pytest.mark.parametrize("text", ["[1]", DEEP, "{}"], ids=range(3))
def test_watch_refuses_odd_options_in_one_line(run, text):
    (run / "training_options.json").write_text(text)
    with pytest.raises(UserError, match="is not the folder of a run"):
        elucid.watch(run, once=True, detector="random")
