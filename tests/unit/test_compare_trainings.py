"""The machinery of comparisons, with trainings that take no time: order, resuming, failures, matching, tuning."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from elucid.api.evaluations.comparing import scoring_check
from elucid.api.evaluations.comparing.compare import compare
from elucid.dnnlib.errors import UserError
from elucid.evaluation.results import load_result
from elucid.evaluation.trainings.cells import Cell, Command, Scoring, golden_section
from elucid.evaluation.trainings.jobs import environment
from elucid.evaluation.trainings.plan import Plan
from elucid.evaluation.trainings.recipes import recipe_of, recipes_of
from elucid.evaluation.trainings.slurm import options_of
from tests import compare_stub
from tests.scripts import ROOT


@pytest.fixture
def stub(monkeypatch):
    own = [sys.executable, "-SE", compare_stub.__file__]
    monkeypatch.setattr(Command, "argv", property(lambda self: [*own, *self.flags]))
    monkeypatch.setattr(scoring_check, "require_scoring", lambda *_: None)


@pytest.fixture
def run(stub, tmp_path):
    (tmp_path / "ref.npz").touch()
    how = {"outdir": tmp_path / "cmp", "data": "data.zip", "ref": tmp_path / "ref.npz", "num": 9, "sampling_seeds": 2}

    def call(*recipes, **options):
        said = []
        return compare(recipes, log=said.append, **{**how, **options}), said

    return call


NEAR, FAR = "near: --lr=10", "far: --lr=20"


def test_different_recipes_are_told_apart_with_few_trainings(run, tmp_path):
    result, said = run(NEAR, FAR, seeds=12, jobs=2)
    assert result.lines[-1].startswith("different: near has the lower fid9_stub, by ")
    assert 8 < result.value < 12
    runs = sorted(path.name for path in (tmp_path / "cmp/far").iterdir())
    assert runs == [f"seed-{1000 + index}" for index in range(len(runs))] and 3 <= len(runs) < 12
    assert load_result(tmp_path / "cmp/compare.json") == result
    seeds = [json.loads(path.read_text())["seeds"] for path in (tmp_path / "cmp").glob("*/*/scores-*.json")]
    assert len(set(seeds)) == len(seeds) == 4 * len(runs)


def test_equal_recipes_stop_early_too(run):
    result, _ = run("a: --lr=10", "b: --lr=10", seeds=12, jobs=2, seed=5, sampling_seeds=1)
    assert result.lines[-1].startswith("not different: ")
    assert result.tables[0].rows[0][1] < 8


def test_a_plan_that_is_changed_after_a_look_says_so(run):
    undecided = ("a: --lr=10", "b: --lr=12.8")
    first, _ = run(*undecided, seeds=3, sampling_seeds=1)
    assert first.lines[-1].startswith("undecided: ") and "more seed" in first.lines[-1]
    again, _ = run(*undecided, seeds=4, sampling_seeds=1)
    assert any("at most 3 trainings each were planned before, now 4" in line for line in again.lines)


def test_fixed_trains_all_in_alternating_order(run, tmp_path):
    result, said = run(NEAR, FAR, seeds=3, sequential=False, metrics="kid,fid")
    assert [line.split(":")[0] for line in said] == [
        *("near, seed 0", "far, seed 1000"),
        *("far, seed 1001", "near, seed 1"),
        *("near, seed 2", "far, seed 1002"),
    ]
    assert result.name == "kid9_stub of far minus near" and len(result.tables) == 4
    assert [len(series.points) for series in result.curves[0].series] == [3, 1, 3, 1]
    assert result.tables[0].rows[1][-1] == pytest.approx(0.1, rel=1)


def test_more_seeds_and_recipes_go_on_from_what_is_there(run, tmp_path):
    run(NEAR, FAR, seeds=2, sequential=False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cmp").glob("*/*/scores-*.json")}
    result, said = run(NEAR, FAR, "third: --lr=10", seeds=3, sampling_seeds=3, sequential=False)
    assert len(said) == 9 and len(result.tables[1].rows) == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (tmp_path / "cmp/near/seed-0/run/calls").read_text() == "started\n"
    again, said = run(NEAR, FAR, "third: --lr=10", seeds=3, sampling_seeds=3, sequential=False)
    assert said == [] and again == result


def test_another_plan_in_the_same_folder_is_refused(run):
    once = {"seeds": 2, "sequential": False, "sampling_seeds": 1}
    run(NEAR, FAR, **once)
    for recipes, options, reason in (
        ((NEAR, "far: --lr=21"), {}, "recipe far was '--lr=20'"),
        ((FAR, NEAR), {}, "compares near, far"),
        ((NEAR, FAR), {"num": 10}, "num=9"),
        ((NEAR, FAR), {"match": "time"}, "match=images"),
        ((NEAR, FAR), {"data": "other.zip"}, "data='data.zip'"),
    ):
        with pytest.raises(UserError, match=reason):
            run(*recipes, **{**once, **options})


def test_a_failed_training_loses_nothing_else(run, tmp_path):
    bad = "far: --lr=20 --transfer=1001"
    with pytest.raises(
        UserError, match="1 of 6 failed, first training of far, seed 1001 failed: the loss is not finite"
    ):
        run(NEAR, bad, seeds=3, sequential=False, jobs=2)
    assert len(list((tmp_path / "cmp").glob("*/*/scores-0.json"))) == 5
    result, said = run(NEAR, bad, seeds=3, sequential=False)
    assert len(said) == 1 and result.tables[0].rows[1][1] == 3


def test_flags_that_train_refuses_are_one_line_before_any_training(run, tmp_path):
    with pytest.raises(UserError, match="^recipe far: unknown preconditioner 'wrong'$"):
        run(NEAR, "far: --precond=wrong", seeds=2)
    assert not (tmp_path / "cmp/near").exists()


def test_matched_by_images_and_by_time(run, tmp_path):
    slow = "slow: --cbase=4 --duration=0.002"
    result, _ = run(NEAR, slow, seeds=2, sequential=False)
    assert "matched by images: 1 kimg each, whatever their own --duration is" in result.lines
    result, said = run(NEAR, slow, seeds=2, sequential=False, match="time", duration=0.004, outdir=tmp_path / "time")
    assert [line.split(":")[0] for line in said[:4]] == [
        *("probe of near, seed 0", "probe of slow, seed 0", "probe of slow, seed 1", "probe of near, seed 1")
    ]
    assert "--duration=0.0002 " in (tmp_path / "time/near/probe-0/log.txt").read_text()
    log = (tmp_path / "time/slow/seed-1000/log.txt").read_text()
    assert "--duration=0.001 " in log and log.index("--duration=0.002") < log.index("--duration=0.001 ")
    assert "slow: 4 and 4 ms per image in 2 probes, so 1 kimg each" in result.lines
    kept, said = run(NEAR, slow, seeds=2, sequential=False, match="time", duration=0.004, outdir=tmp_path / "time")
    assert said == [] and kept.lines == result.lines


def test_guidance_is_tuned_for_each_training_on_other_seeds(run, tmp_path):
    result, _ = run(NEAR, FAR, seeds=2, sequential=False, tune=("cfg", 1.0, 4.0), tune_num=7)
    tuned = result.about["tuned"]
    assert len(tuned) == 4 and all(abs(one["value"] - 2) < 0.4 and len(one["tried"]) == 6 for one in tuned)
    log = (tmp_path / "cmp/near/seed-0/log.txt").read_text()
    assert "--seeds=3500000000-3500000006" in log
    scoring = [line for line in log.splitlines() if line.startswith("$ ")][-1]
    assert "--seeds=0-8,9-17" in scoring and scoring.endswith(f"--cfg={tuned[0]['value']:.4g}")


def test_golden_section():
    search, values = golden_section(0.0, 10.0, 20), []
    value = next(search)
    with pytest.raises(StopIteration):
        while True:
            values.append(value)
            value = search.send((value - 3.7) ** 2)
    assert len(values) == 20 and values[-1] == pytest.approx(3.7, abs=0.01)


def test_finished_runs(run, tmp_path):
    run(NEAR, FAR, seeds=3, sequential=False)
    runs = f"old: {tmp_path}/cmp/near/seed-*/run"
    result, said = run(
        runs, f"new: {tmp_path}/cmp/far/seed-1000/run,{tmp_path}/cmp/far/seed-1002/run", outdir=tmp_path / "b"
    )
    assert [row[1] for row in result.tables[0].rows] == [3, 2] and result.about["first_look"] is None
    assert "old: finished runs on 1 kimg" in result.lines
    mixed, _ = run(runs, FAR, seeds=8, outdir=tmp_path / "c")
    assert mixed.tables[0].rows[0][1] == 3 and mixed.about["first_look"] == 3


def started(folder: Path) -> bool:
    return any(folder.glob("*/*/run/state"))


def test_killed_and_resumed(tmp_path):
    """SIGTERM ends the trainings too; the same command finishes, and repeats only what was not done."""
    (tmp_path / "ref.npz").touch()
    flags = ["a: --lr=10", "b: --lr=20 --hook=slow", "--data=data.zip", f"--ref={tmp_path}/ref.npz", "--num=9"]
    flags += [f"--outdir={tmp_path}/cmp", "--seeds=2", "--fixed", "--sampling_seeds=1"]
    call = [sys.executable, compare_stub.__file__, "compare", *flags]
    where = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(call, env=where, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not started(tmp_path / "cmp") and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130 and "error: interrupted" in err
    assert not list(tmp_path.glob("cmp/*/*/output.tmp"))
    for command in Path("/proc").glob("[0-9]*/cmdline") if Path("/proc/self/cmdline").exists() else ():
        assert str(tmp_path).encode() not in command.read_bytes(), "a training outlived the comparison"
    finished = tmp_path / "cmp/a/seed-0/scores-0.json"
    before = finished.stat().st_mtime_ns
    (tmp_path / "cmp/b/seed-1001/run").mkdir(parents=True)
    (tmp_path / "cmp/b/seed-1001/run/state").touch()
    done = subprocess.run(call, env=where, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.splitlines()[-2].split(":")[0] in ("different", "undecided")
        and finished.stat().st_mtime_ns == before
    )
    assert (tmp_path / "cmp/b/seed-1000/run/calls").read_text() == "started\n" * 2


def test_recipes(tmp_path):
    named = recipe_of("cdm: --preset=demo '--loss=cdm(edm)'")
    assert named.name == "cdm" and named.flags == ("--preset=demo", "--loss=cdm(edm)")
    assert recipe_of("demo") == recipe_of("demo: demo") and recipe_of("demo").flags == ("--preset=demo",)
    assert recipe_of("--preset=demo --loss=cdm(edm)").name == "demo-loss-cdm-edm"
    (tmp_path / "mine.txt").write_text("# as in the paper\n--preset=demo\n--lr=1e-3  # higher\n")
    assert recipe_of(f"{tmp_path}/mine.txt").flags == ("--preset=demo", "--lr=1e-3")
    assert recipe_of(f"{tmp_path}/mine.txt").name == "mine"


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["demo"], "at least two"),
        (["demo", "demo"], "two recipes are named demo"),
        (["demoo", "demo"], "did you mean 'demo'"),
        (["a: --seed=1", "demo"], "--seed=1 is set by the comparison; give the first one by `seed`"),
        (["a: --outdir=x", "demo"], "--outdir"),
        (["a: --lr='1", "demo"], "check its quotes"),
        (["a: {folder}", "demo"], "holds no network-snapshot"),
        (["a: {folder}/nothing-*", "demo"], "neither a preset"),
        (["a: {folder}/empty.txt", "demo"], "has no flags"),
    ],
)
def test_recipes_that_are_none(tmp_path, texts, reason):
    (tmp_path / "empty.txt").touch()
    with pytest.raises(UserError, match=reason):
        recipes_of([text.format(folder=tmp_path) for text in texts])


def test_no_two_blocks_share_a_seed(tmp_path):
    plan = Plan(tuple(recipes_of(["a: --lr=1", "b: --lr=2"])), tmp_path, Scoring((), 1000, 20))
    cells = [plan.cell(recipe, index) for recipe in (0, 1) for index in (0, 1, 99)]
    firsts = sorted(cell.first_seed(block) for cell in cells for block in range(20))
    assert min(after - before for before, after in zip(firsts, firsts[1:], strict=False)) >= 1000
    assert len({cell.seed for cell in cells}) == len(cells)


def test_each_job_has_its_share(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    alone = int(environment(1, 0)["OMP_NUM_THREADS"])
    assert int(environment(alone, 1)["OMP_NUM_THREADS"]) == 1
    assert [environment(3, slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["2", "5", "2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert [environment(2, slot, 2)["CUDA_VISIBLE_DEVICES"] for slot in range(2)] == ["0,1", "2,3"]


def test_trainings_of_several_processes_and_none_under_torchrun(monkeypatch):
    argv = Command(("train", "--lr=1"), "training", processes=4).argv
    assert argv[1:] == [
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4", "--module", "elucid", "train", "--lr=1")
    ]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="`processes`=2"):
        compare(["demo", "b: demo"])


def test_slurm(run, tmp_path):
    assert options_of("partition=gpu,gpus_per_node=1,time=60") == {
        **{"slurm_partition": "gpu", "gpus_per_node": 1, "timeout_min": 60}
    }
    with pytest.raises(UserError, match="is not NAME=VALUE"):
        options_of("gpu")
    try:
        import submitit  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(UserError, match=r'pip install "\.\[slurm\]"'):
            run(NEAR, FAR, seeds=2, slurm={"cluster": "local"})


def test_cells_on_a_cluster(tmp_path):
    """Real jobs of submitit on this machine: a failure comes back with its last line."""
    pytest.importorskip("submitit")
    from elucid.evaluation.trainings.slurm import run_there

    failures = []
    cell = Cell("a", 0, 0, tmp_path / "cell", tmp_path / "run", Scoring(("--metrics=fid", "--ref=nowhere.npz"), 9, 1))
    run_there([cell], tmp_path / "slurm", {"cluster": "local"}, lambda _, failure: failures.append(failure))
    assert len(failures) == 1 and "snapshot not found" in failures[0].last_line
