"""evaluate.py sweep: a table, a curve, a command that works, and work that goes on after an interruption."""

import json
import shlex

import numpy as np
import pytest
from PIL import Image

import elucid
from elucid.api.evaluations import sweep as module
from elucid.commands.generate import main as generate
from elucid.evaluation.results import load_result
from tests import scripts
from tests.snapshots import save_random_snapshot


@pytest.fixture(scope="module")
def ref(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for index, image in enumerate(np.random.RandomState(0).randint(0, 256, (40, 8, 8), np.uint8)):
        Image.fromarray(image).save(folder / f"{index:02d}.png")
    path = folder.parent / "ref.npz"
    elucid.reference(folder, path, detector="random", features=True, device="cpu")
    return path


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory):
    """A model of 3 classes with two averages."""
    path = tmp_path_factory.mktemp("model") / "snapshot.pkl"
    return save_random_snapshot(path, channels=1, classes=3, names=("0.1", "0.5"))


@pytest.fixture
def sweep(monkeypatch, capsys, snapshot, ref):
    def call(*args, code=0):
        flags = (f"--ref={ref}", "--device=cpu", *args)
        found, out, err = scripts.call(monkeypatch, capsys, "evaluate.py", "sweep", snapshot, *flags)
        assert found == code, err
        return out.splitlines(), err.splitlines()

    return call


@pytest.fixture
def drawn(monkeypatch):
    """How many samples were drawn in each call."""
    counts = []

    def counted(detectors, wanted, batches, order, total, collect=module.collect):
        counts.append(total)
        return collect(detectors, wanted, batches, order, total)

    monkeypatch.setattr(module, "collect", counted)
    return counts


def test_table_curves_command_and_number(sweep, snapshot, ref, drawn, tmp_path):
    out, err = sweep("--steps=1:5", "--ema=0.1,0.5", "--metrics=kid,pr", "--num=32", "--class_policy=equal",
                     f"--dest={tmp_path}/s.json")  # fmt: skip
    result = load_result(tmp_path / "s.json")
    rows = [dict(zip(result.tables[0].columns, row, strict=True)) for row in result.tables[0].rows]
    assert {row["images"] for row in rows} == {16, 32} and len(rows) >= 10
    whole = [row["kid_random"] for row in rows if row["images"] == 32]
    assert result.value == min(whole) and float(out[-1]) == pytest.approx(result.value, rel=1e-4)
    assert sum(drawn) == result.about["samples"] < result.about["samples_of_grid"] == 32 * len(rows)
    assert f"{sum(drawn)} samples" in "\n".join(out)
    assert [curve.title for curve in result.curves] == ["kid_random", "precision_random", "recall_random"]
    command = shlex.split(result.lines[-1])
    assert command[:2] == ["python", "generate.py"] and out[-3] == result.lines[-1]
    given = generate.make_context("generate.py", command[2:]).params
    assert (given["steps"], given["ema"]) == tuple(result.about["best"].values())
    assert given["class_policy"] == "equal" and given["network"] == str(snapshot)
    # Images of two rounds together score like all at once.
    options = elucid.SampleOptions(class_policy="equal", steps=given["steps"], ema=given["ema"])
    from elucid.api.scoring import score_blocks

    blocks = score_blocks(str(snapshot), range(64), options, 2, str(ref), metrics=["kid", "pr"], device="cpu")
    assert blocks[0].value == pytest.approx(result.value, rel=1e-4)


def test_an_interrupted_sweep_goes_on(sweep, drawn, tmp_path, monkeypatch):
    flags = ("--steps=1,2,3", "--num=32", f"--dest={tmp_path}/new/s.json")
    monkeypatch.setattr(module.Scorer, "_computed", interrupted_after(4, module.Scorer._computed))
    assert sweep(*flags, code=130)[1][-1] == "error: interrupted"
    monkeypatch.undo()
    records = (tmp_path / "new/s.jsonl").read_text()
    assert len(records.splitlines()) == 4 and not (tmp_path / "new/s.json").exists()
    (tmp_path / "new/s.jsonl").write_text(records + '{"half a li')
    first = sweep(*flags)[0]
    assert len((tmp_path / "new/s.jsonl").read_text().splitlines()) == 6  # 3 of 16 images, 2 of 32, and the half line
    assert sweep(*flags)[0] == first
    _, err = sweep(*flags, "--metrics=kid", code=2)
    assert "s.jsonl holds scores of another sweep" in err[-1]


def interrupted_after(times: int, call):
    def counting(self, setting, num, count=[0]):  # noqa: B006  counts over all calls
        count[0] += 1
        if count[0] > times:
            raise KeyboardInterrupt
        return call(self, setting, num)

    return counting


def test_guidance_and_the_ends_of_its_interval(sweep):
    out, err = sweep("--cfg=1.5,3", "--guidance_interval=0.1/0.5,0.3:8", "--steps=1", "--num=4", "--rounds=1", "--json")
    found = json.loads(out[-1])
    assert found["tables"][0]["columns"][:4] == ["cfg", "guidance_low", "guidance_high", "images"]
    ends = {(low, high) for _, low, high, *_ in found["tables"][0]["rows"]}
    assert (0.1, 0.3) in ends and (0.5, 0.3) not in ends and (0.5, 8.0) in ends
    interval = ",".join(f"{found['about']['best'][end]:g}" for end in ("guidance_low", "guidance_high"))
    assert f"--guidance_interval={interval}" in found["lines"][-1] and "--cfg=" in found["lines"][-1]


def test_from_python(snapshot, ref):
    axes = {"S_churn": elucid.Range(0.0, 8.0)}
    options = elucid.SampleOptions(steps=2)
    result = elucid.sweep(snapshot, ref, axes, options=options, metrics="kid", num=4, device="cpu")
    assert len(result.tables[0].rows) == 5 and result.kind == "sweep" and "--S_churn=" in result.lines[-1]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("", "nothing to sweep"),
        ("--steps=4", "nothing to sweep"),
        ("--steps=4,x", "'x' is not a valid"),
        ("--steps=0:4", "0 is not in the range x>=1"),
        ("--cfg=4:1", "4:1 is no range"),
        ("--steps=4,4", "different values"),
        ("--guidance_interval=1:5", "no interval LO,HI"),
        ("--eta=0,0.5", "--eta=0"),
        ("--ema=0.1,7", "no average '7'"),
        ("--steps=1,2 --metrics=dc --num=3", "at least 6 generated"),
        ("--steps=1,2 --metrics=fidd", "did you mean 'fid'"),
        ("--steps=1,2 --dest=.", "is a folder"),
        ("--guidance_interval=0.1:1,5", "--cfg"),
    ],
)
def test_bad_input_is_one_line(sweep, flags, reason):
    _, err = sweep(*flags.split(), code=2)
    errors = [line for line in err if line.startswith("error: ")]
    assert len(errors) == 1 and reason in errors[0], err
