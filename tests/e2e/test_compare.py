"""evaluate.py compare as users call it: numbers typed in, real trainings and runs, bad input."""

import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from elucid.evaluation.results import load_result
from tests import scripts
from tests.snapshots import save_random_snapshot


@pytest.fixture
def compare(monkeypatch, capsys):
    def call(*args, code=0):
        found, out, err = scripts.call(monkeypatch, capsys, "evaluate.py", "compare", *args)
        assert found == code, err
        return out.splitlines() if code == 0 else err

    return call


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    for index, image in enumerate((load_digits().images[:300] / 16 * 255).round().astype(np.uint8)):
        Image.fromarray(image).save(folder / f"{index:03d}.png")
    return folder


SCORES = ("--scores=A: 1.77,1.79,1.80", "--scores=B: 1.82,1.85,1.81")


def test_is_it_real(compare, tmp_path):
    """The last line of text is the verdict, the last of all the difference."""
    lines = compare(*SCORES)
    assert (
        lines[-2].startswith("undecided: fid of B minus that of A is 0.04; 97.5 % interval -0.014")
        and lines[-1] == "0.04"
    )
    result = json.loads(compare(*SCORES, "--json", "--alpha=0.1", f"--dest={tmp_path}/r.json")[-1])
    assert result["about"]["outcomes"] == {"fid": ["different"]}
    assert load_result(tmp_path / "r.json").value == pytest.approx(result["value"]) == pytest.approx(0.04)
    assert compare("--scores=A: 1.77", "--scores=B: 1.82", "--cv=1.3%")[-2].startswith("undecided")
    three = compare(*SCORES, "--scores=C: 9,9.1,9.2", "--metrics=is")
    assert three[-2].startswith("different: C has the higher is") and three[-3].startswith("undecided")


def test_a_training_against_a_finished_run(compare, digits, tmp_path):
    """Real subprocesses: a dry run, a training, scores in the features of a detector."""
    (tmp_path / "run").mkdir()
    save_random_snapshot(tmp_path / "run/network-snapshot-000000.pkl", channels=1)
    flags = [flag for flag in scripts.TINY if not flag.startswith(("--seed", "--device"))]
    recipe = f"new: {' '.join(flags)} --duration=0.000064 --batch=16 --augment=0"
    call = ["old: " + str(tmp_path / "run"), recipe, f"--data={digits}", "--detector=random", "--metrics=fid,kid"]
    call += ["--num=24", "--steps=2", "--sampling_seeds=2", "--seeds=1", "--cv=5%", "--device=cpu"]
    lines = compare(*call, f"--outdir={tmp_path}/cmp")
    assert lines[-2].split(":")[0] in ("different", "not different", "undecided") and "fid24_random" in lines[-2]
    result = load_result(tmp_path / "cmp/compare.json")
    assert float(lines[-1]) == pytest.approx(result.value, rel=1e-5)
    assert result.about["seconds"]["new"] > 0 and [row[1] for row in result.tables[0].rows] == [1, 1]
    assert (tmp_path / "cmp/reference-random.npz").exists()
    seeds = [json.loads(path.read_text())["seeds"] for path in sorted((tmp_path / "cmp").glob("*/*/scores-*.json"))]
    assert len(set(seeds)) == 4
    error = compare(
        *[f"{flag} --lr=1" if flag == recipe else flag for flag in call], f"--outdir={tmp_path}/cmp", code=2
    )
    assert "recipe new was" in error and "choose another --outdir" in error


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["demo"], "1 recipes; give at least two"),
        (["demo", "demmo"], "did you mean 'demo'"),
        (["a: --seed=3", "demo"], "give the first one by --seed"),
        (["demo", "b: demo"], "--data is missing"),
        (["demo", "b: demo", "--data=nowhere.zip"], "nowhere.zip"),
        (["demo", "b: demo", "--data={digits}"], "name the --detector"),
        (["demo", "b: demo", "--data={digits}", "--detector=random", "--seeds=1"], "--seeds=1: one training"),
        (["demo", "b: demo", "--data={digits}", "--detector=random", "--num=9999999"], "--num=9999999"),
        (["demo", "b: demo", "--data={digits}", "--detector=random", "--sampling=--cfg='1"], "--sampling"),
        (["demo", "b: demo", "--data={digits}", "--detector=random", "--slurm=gpu"], "--slurm=gpu"),
        (["demo", "b: demo", "--tune=cfg:3:1"], "LOW below HIGH"),
        (["demo", "--metrics=fidd"], "did you mean 'fid'"),
        (["demo", "b: demo", "--data={digits}", "--cv=1%", "--sequential"], "--cv assumes the spread"),
        (["demo", "--scores=A: 1"], "leave the recipes out"),
        (["--scores=A: 1", "--scores=B: 2"], "assume one by --cv=1.3%"),
        (["--scores=A: 1", "--scores=B: 2", "--cv=130%"], "--cv=130% is not a share"),
        (["--scores=A: 1,2", "--scores=B: 2,3", "--alpha=0.9"], "--alpha=0.9"),
        (["--scores=A: 1,2", "--scores=B: 2,3", "--dest={digits}"], "is a folder"),
    ],
)
def test_bad_input_is_one_line(compare, digits, tmp_path, monkeypatch, flags, reason):
    monkeypatch.chdir(tmp_path)
    where = [] if flags[0].startswith("--scores") else [f"--outdir={tmp_path}/cmp"]
    error = compare(*(flag.format(digits=digits) for flag in flags), *where, code=2)
    assert error.startswith("error: ") and reason in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())
