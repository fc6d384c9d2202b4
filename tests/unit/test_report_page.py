"""The page of a report: well-formed, complete in one file, and unmoved by hostile names, options and files."""

import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from elucid.dnnlib.errors import UserError
from elucid.evaluation.report.collect import RunRecord, Statistic, best, read_run, read_runs, short_names
from elucid.evaluation.report.curves import curves
from elucid.evaluation.report.page import page, policy
from elucid.evaluation.report.pictures import GRID, inside
from elucid.evaluation.report.samples import ClassSamples, Column, grids, spread
from elucid.evaluation.report.tables import result_table
from elucid.evaluation.results import Curve, Picture, Result, Series, Table
from tests.run_folders import line, write_run

NASTY = "<script>alert(1)</script><img src=x onerror=alert(1)>\" onload='alert(1)' </style>&amp;\x00\ud800"
RAW = NASTY.replace("\ud800", "")
VOID = {"meta", "input", "img", "br", "hr"}


class Reader(HTMLParser):
    """Reads a page, and checks that each element is closed in its place."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.elements, self.texts, self.scripts = [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs), tag
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if self.open[-1:] in (["script"], ["style"]) else self.texts).append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def named(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]


def result(text: str, file: str = "sheet.png") -> Result:
    return Result(
        text,
        text,
        0.5,
        (0.4, 0.6),
        lines=(text,),
        tables=(Table(f"Confusion {text}", ("class", text), ((text, 3), (text, math.nan))),),
        curves=(Curve(text, text, text, (Series(text, ((1.0, 2.0), (2.0, math.nan))), Series("b", ((1.0, 2.0),)))),),
        pictures=(Picture(text, file),),
        about={text: {text: [text, None]}},
    )


def assert_harmless(read: Reader) -> None:
    """No script but the page's own, no handlers, nothing from elsewhere."""
    assert len(read.named("script")) == 1 and len(read.named("style")) == 1
    for tag, attributes in read.elements:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        assert tag in ("img", "a", "div", "label") or not {"src", "href", "action", "data"} & attributes.keys(), tag
        assert tag != "img" or re.match(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]+$", attributes["src"])
        assert tag != "a" or attributes["href"].startswith("#")
    (content,) = [one["content"] for one in read.named("meta") if "http-equiv" in one]
    style, script = read.scripts
    assert content == policy(style, script) and "default-src 'none'" in content


def test_hostile_names_are_text(tmp_path):
    folder = write_run(tmp_path / RAW.replace("/", "\u2215").replace("\x00", ""))
    hostile = {"dataset": {"path": NASTY}, NASTY: {NASTY: NASTY}, "loop": {"duration_mimg": 10**400, "seed": NASTY}}
    (folder / "training_options.json").write_text(json.dumps(hostile))
    (folder / "run.json").write_text(json.dumps([{"command": NASTY, "started": [NASTY], "device": {NASTY: 1}}, 7]))
    lines = [line(tick, **{f"Loss_{NASTY}": tick, f"Eval_{NASTY}": tick}) for tick in (1, 2)]
    (folder / "stats.jsonl").write_text("\n".join([*lines, RAW, '{"Progress/kimg": {"mean": 1e999}}']))
    (folder / "samples-000003.png").write_text(RAW)
    saved = folder / "evaluations" / "bad.json"
    result(NASTY).save(saved)
    (folder / "evaluations" / "broken.json").write_text(RAW)
    runs = read_runs([folder, folder], [NASTY, "other"])
    image = np.zeros((1, 4, 4), dtype=np.uint8)
    samples = [ClassSamples(NASTY, [NASTY], [Column(NASTY, {0: [image], 1: [image]}, run=0)], [NASTY])]
    text = page(runs, samples, [(saved, result(NASTY))])
    read = Reader(text)
    assert_harmless(read)
    assert "<script>alert(1)</script>" in read.text
    text.encode()  # no lone surrogates
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f]", text)


def test_one_run(tmp_path):
    folder = write_run(tmp_path / "run", Eval_fid5k_random=(9.0, 4.5, 3.25, 3.5))
    result("agreement").save(folder / "evaluations" / "svc.json")
    Image.fromarray(np.zeros((9, 9, 3), dtype=np.uint8)).save(folder / "evaluations" / "sheet.png")
    read = Reader(page([read_run(folder, "run")]))
    assert_harmless(read)
    assert [one["id"] for one in read.named("section")] == [
        "summary", "curves", "samples", "evaluations", "settings", "environment",
    ]  # fmt: skip
    for shown in (
        "4,000",
        "of 4,000",
        "40s",
        "0.2",
        "3.25",
        "at 3 thousand images",
        "0.4 to 0.6",
        "noise.P_mean",
        "somewhere",
    ):
        assert shown in read.text, shown
    assert sum(one.get("width") == "9" for one in read.named("img")) == 1  # the picture of the result
    titles = [title for title in read.texts if title.endswith(("/loss", "/fid5k_random", "Speed"))]
    assert titles[:3] == ["Loss/loss", "Eval/fid5k_random", "Speed"]


def test_confusion_matrices_are_shaded_by_row():
    read = Reader(result_table(Table("x", ("", "cat", "dog"), (("cat", 8, 0), ("dog", 1, 3)))))
    assert [one.get("class") for one in read.named("td")] == [
        None,
        "number h8",
        "number",
        None,
        "number h2",
        "number h6",
    ]
    assert "confusion" not in result_table(Table("x", ("class", "cat", "dog"), (("cat", 8, 0),)))


def test_several_runs_show_their_differences_first(tmp_path):
    one = write_run(tmp_path / "one")
    other = write_run(tmp_path / "other", {"loss": {"name": "cdm", "lambda": None}}, losses=(0.8, 0.6))
    read = Reader(page(read_runs([one, other])))
    first = read.text.index("Settings that differ")
    differing = read.text[first : read.text.index("All 10 settings")]
    assert "loss.name" in differing and "lambda" in differing and "none" in differing
    assert "loop.seed" not in differing and "loop.seed" in read.text[first:]
    chart = next(one for one in read.named("svg") if "Loss/loss" in one.get("aria-label", ""))
    assert "one: 0.2 at 4" in chart["aria-label"] and "other: 0.6 at 2" in chart["aria-label"]


def test_grids_of_all_runs_have_one_slider(tmp_path):
    runs = read_runs([write_run(tmp_path / "a", losses=range(1, 9)), write_run(tmp_path / "b", losses=range(1, 4))])
    read = Reader(grids(runs, 24))
    (slider,) = read.named("input")
    assert slider["data-kimg"] == "2 4 6 8" and (slider["max"], slider["value"]) == ("3", "3")
    shown = [one["data-kimg"] for one in read.named("div") if "data-kimg" in one and "hidden" not in one]
    assert shown == ["8", "2"]
    assert len(Reader(grids(runs, 2)).named("img")) == 3


@pytest.mark.parametrize("count, most", [(1, 1), (5, 1), (5, 24), (100, 24), (3, 2)])
def test_spread(count, most):
    kept = spread(list(range(count)), most)
    assert len(kept) == min(count, most) and kept[-1] == count - 1 and kept == sorted(set(kept))
    assert most == 1 or kept[0] == 0


def test_what_is_damaged_is_left_out_and_noted(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "run.json").unlink()
    (folder / "training_options.json").write_text("[" * 100_000)
    with open(folder / "stats.jsonl", "a") as file:
        file.write('{"Progress/kimg"\n[1]\n')
    (folder / "samples-000004.png").write_bytes((folder / "samples-000004.png").read_bytes()[:60])
    (folder / "evaluations").mkdir()
    (folder / "evaluations" / "x.json").write_text("{}")
    run = read_run(folder, "run")
    read = Reader(page([run]))
    for name in ("run.json", "training_options.json", "stats.jsonl: 2 damaged", "samples-000004.png", "x.json"):
        assert any(name in note for note in run.notes) and name in read.text, name
    assert len(read.named("img")) == 1 and "0.2" in read.text


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname", "link.png"])
def test_pictures_outside_of_a_results_folder_are_not_read(tmp_path, name):
    folder = write_run(tmp_path / "run")
    Image.fromarray(np.zeros((7, 7), dtype=np.uint8)).save(folder / "secret.png")
    result("svc", name).save(folder / "evaluations" / "svc.json")
    (folder / "evaluations" / "link.png").symlink_to(folder / "secret.png")
    with pytest.raises(UserError):
        inside(folder / "evaluations", name)
    read = Reader(page([read_run(folder, "run")]))
    assert not [one for one in read.named("img") if one["width"] == "7"] and "not shown" in read.text


def test_pictures_are_encoded_again_and_bounded(tmp_path):
    folder = write_run(tmp_path / "run", losses=(1, 1))
    noise = np.random.default_rng(0).integers(0, 256, (1200, 300, 3), dtype=np.uint8)
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", "not for the reader")
    Image.fromarray(noise).save(folder / "samples-000002.png", pnginfo=notes)
    text = page([read_run(folder, "run")])
    (grid,) = Reader(text).named("img")
    assert max(int(grid["width"]), int(grid["height"])) == GRID.side and grid["src"].startswith("data:image/jpeg")
    assert len(text) < 0.8 * noise.size  # noise is the worst there is


def test_classes_stand_side_by_side(tmp_path):
    run = read_run(write_run(tmp_path / "run"), "run")
    gray, coloured = np.zeros((1, 8, 8), dtype=np.uint8), np.zeros((3, 100, 100), dtype=np.uint8)
    columns = [Column("Real", {0: [gray], 1: [gray, gray]}), Column("run", {1: [coloured]}, run=0)]
    read = Reader(page([run], [ClassSamples("data.zip", ["cat"], columns)]))
    alternatives = [one["alt"] for one in read.named("img") if "samples" not in one["alt"]]
    assert alternatives == ["Real: cat", "Real: class 1", "Real: class 1", "run: class 1"]
    widths = [one["width"] for one in read.named("img") if "samples" not in one["alt"]]
    assert widths == ["64", "64", "64", "100"]


@pytest.mark.parametrize(
    "name, expected", [("Eval/fid5k_random", 1.0), ("Eval/precision5k_x", 3.0), ("Eval/is5k_y", 3.0), ("Eval/kid", 1.0)]
)
def test_the_best_score_is_the_lowest_or_the_highest(name, expected):
    assert best(name, Statistic([1, 2, 3, 4], [2.0, 3.0, 1.0, math.nan]))[1] == expected
    assert best(name, Statistic([1], [math.nan])) is None


@pytest.mark.parametrize(
    "folders, names",
    [
        (["runs/00000-a-edm-x"], ["00000-a-edm-x"]),
        (["runs/00000-a-edm-x", "runs/00001-a-cdm-x"], ["00000-edm", "00001-cdm"]),
        (["one/run", "two/run"], ["one/run", "two/run"]),
        (["a-b", "a-b-c"], ["a-b", "a-b-c"]),
    ],
)
def test_short_names_tell_runs_apart(tmp_path, folders, names):
    assert short_names([tmp_path / folder for folder in folders]) == names


def test_data_is_found_from_where_the_run_was_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = read_run(write_run(tmp_path / "elsewhere" / "run"), "run")
    run.starts[-1]["folder"] = str(tmp_path / "elsewhere")
    assert str(run.data) == "data.zip"  # nothing is there
    (tmp_path / "elsewhere" / "data.zip").touch()
    assert run.data == tmp_path / "elsewhere" / "data.zip"
    (tmp_path / "data.zip").touch()
    assert str(run.data) == "data.zip"


@pytest.mark.parametrize(("left_out", "shown"), [([0.0, 0.0], False), ([0.0, 2.0], True)])
def test_steps_that_were_left_out_are_drawn_only_if_there_are_any(tmp_path, left_out, shown):
    stats = {"Loss/loss": Statistic([1.0, 2.0], [0.5, 0.0])}
    stats["Optimizer/steps_left_out"] = Statistic([1.0, 2.0], left_out)
    drawn = str(curves([RunRecord(tmp_path, "run", stats=stats)]))
    assert "Loss/loss" in drawn and ("steps_left_out" in drawn) == shown
