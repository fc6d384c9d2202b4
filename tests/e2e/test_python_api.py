"""The Python API says what happened: whether a run is done, what an object is, what an argument should have been."""

import json
import os
import signal
import sys

import pytest

import elucid
from elucid.training.hooks.base import Hook
from elucid.training.samplers.edm import EDMSampler

SMALL = {"network.num_blocks": 1, "network.attn_resolutions": [], "loop.grid_images": 0}
OPTIONS = {"preset": "demo", "cbase": 16, "batch": 8, "tick": 0.008, "device": "cpu", "set": SMALL}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "digits.zip"
    elucid.datasets.prepare("builtin:digits-test", path, max_images=80)
    return path


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELUCID_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        outdir = tmp_path_factory.mktemp("runs")
        return elucid.train(elucid.TrainOptions(data=data, outdir=outdir, duration=16e-6, **OPTIONS))


class Interrupts(Hook):
    def __init__(self, number):
        self.number = number

    def on_step(self, run, images):
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_does_not_return(number, data, tmp_path):
    options = elucid.TrainOptions(data=data, outdir=tmp_path, duration=16e-6, **OPTIONS)
    with pytest.raises(KeyboardInterrupt, match="continue with TrainOptions") as caught:
        elucid.train(options, hooks=[Interrupts(number)])
    stopped = caught.value
    assert isinstance(stopped, elucid.Stopped) and stopped.nimg == 8
    assert list(stopped.folder.glob("training-state-*.pt"))
    assert elucid.train(elucid.TrainOptions(resume=stopped.folder)) == stopped.folder


def test_generate_writes_labelled_images_that_class_agreement_judges(run, data, tmp_path):
    options = elucid.SampleOptions(steps=2)
    out = elucid.generate(run, tmp_path / "out", range(6), options, labels=True, grid=tmp_path / "grid.png")
    assert out == tmp_path / "out" and (tmp_path / "grid.png").is_file()
    assert len(json.loads((out / "dataset.json").read_text())["labels"]) == len(list(out.glob("*.png"))) == 6
    with pytest.raises(elucid.UserError, match="use `overwrite`"):
        elucid.generate(run, out, range(6))
    judged = elucid.class_agreement(data, out, test=data)
    assert judged["num_images"] == 6 and 0 <= judged["value"] <= 100 and judged["test"] > 90


def test_images_per_class_and_a_class_for_each_seed(run, tmp_path):
    options = elucid.SampleOptions(steps=1)
    out = elucid.generate(run, tmp_path / "out", options=options, per_class=1, class_dirs=True)
    assert sorted(path.parent.name for path in out.rglob("*.png")) == [str(n) for n in range(10)]
    listed = elucid.SampleOptions(steps=1, classes=[3, "4"])
    elucid.generate(run, out, [3, 4], listed, class_dirs=True)  # they are there: the same classes
    assert sum(elucid.load(run).snapshot.dataset["class_counts"]) == 80
    elucid.generate(run, out, [0, 1], elucid.SampleOptions(steps=1, class_policy="equal"), class_dirs=True)
    (out / "3/000003.png").unlink()
    elucid.generate(run, out, [3, 4], listed, class_dirs=True)
    assert (out / "3/000003.png").is_file()
    with pytest.raises(elucid.UserError, match="use `overwrite`"):
        elucid.generate(run, out, [3, 4], elucid.SampleOptions(steps=1, classes=[5, 4]), class_dirs=True)
    with pytest.raises(elucid.UserError, match="`classes` has 1 entries for 2 seeds"):
        elucid.generate(run, out, [3, 4], elucid.SampleOptions(steps=1, classes=[5]))


@pytest.mark.parametrize(
    ("seeds", "mend"), [(5, r"range\(5\)"), (0, r"range\(16\)"), ("ab", "range"), ([1.5], "range")]
)
def test_seeds_are_a_sequence_of_integers(seeds, mend, run, tmp_path):
    with pytest.raises(elucid.UserError, match=f"`seeds`=.* is not a sequence of integers; give for example {mend}"):
        elucid.load(run, device="cpu").sample(seeds)
    with pytest.raises(elucid.UserError, match="not a sequence of integers"):
        elucid.generate(run, tmp_path, seeds)


def test_objects_say_what_they_are(run, data, tmp_path):
    assert "80 images, 16x16, 1 channels, 10 classes" in repr(elucid.datasets.open(data))
    assert repr(elucid.datasets.verify(data)).startswith("images: 80\nsize: 16x16\n")
    report = elucid.datasets.prepare(data, tmp_path / "again.zip")
    assert repr(report).startswith("80 images of 16x16") and len(repr(report)) < 400
    assert (
        repr(elucid.load(run, device="cpu"))
        == "<elucid.Model of digits: 1x16x16, 10 classes, trained on 16 images, on cpu>"
    )
    assert repr(elucid.TrainOptions(data="a.zip", cond=False)) == "TrainOptions(data='a.zip', cond=False)"
    assert repr(elucid.SampleOptions(steps=3)) == "SampleOptions(steps=3)"
    score = elucid.Score("fid80_random", 1.25, 80, None, {"ref": "a.npz"})
    assert repr(score) == "<elucid.Score fid80_random: 1.25, 80 images against unknown many of a.npz>"


LOSS = """
from elucid.training.losses.dsm import DSM
from elucid.training.noise.distributions import NoiseDistribution

class MyLoss(DSM):
    def __init__(self, noise: NoiseDistribution):
        super().__init__(noise)
"""


def test_a_class_of_a_module_is_a_component(data, tmp_path, monkeypatch):
    (tmp_path / "losses_of_mine.py").write_text(LOSS)
    monkeypatch.syspath_prepend(tmp_path)
    import losses_of_mine

    options = elucid.TrainOptions(data=data, outdir=tmp_path, duration=8e-6, loss=losses_of_mine.MyLoss, **OPTIONS)
    run = elucid.train(options)
    assert json.loads((run / "training_options.json").read_text())["loss"]["name"] == "losses_of_mine:MyLoss"
    monkeypatch.delitem(sys.modules, "losses_of_mine")


class OfNotebook:
    """As if it had been defined in a cell."""

    __module__ = "__main__"


def test_other_classes_and_objects_are_refused_with_the_mend():
    with pytest.raises(elucid.UserError, match='no other process can import the class OfNotebook.*`loss`="mine.py:Of'):
        elucid.TrainOptions(loss=OfNotebook).flags()
    with pytest.raises(
        elucid.UserError, match="`loss` is an object of .*Hook; give a name or class, and its options by"
    ):
        elucid.TrainOptions(loss=Hook()).flags()
    assert elucid.SampleOptions(sampler=EDMSampler).sampler == "elucid.training.samplers.edm:EDMSampler"
    with pytest.raises(elucid.UserError, match="`sampler` is an object of .*EDMSampler; give a name or class"):
        elucid.SampleOptions(sampler=EDMSampler())
    with pytest.raises(elucid.UserError, match=r"`hooks` is an object .*elucid.train\(options, hooks="):
        elucid.TrainOptions(hooks=[Hook()]).flags()
    with pytest.raises(elucid.UserError, match="`hooks`='mine.py:MyHook' is not a list"):
        elucid.TrainOptions(hooks="mine.py:MyHook").flags()


@pytest.mark.parametrize(
    ("duration", "extra", "said"),
    [
        (16e-6, {}, ["snapshots at the end, states at the end and on Ctrl-C", "--dump", "reaches 0.8 % of lr"]),
        (0.004, {"dump": 100}, ["states every 0.8 kimg and on Ctrl-C"]),
    ],
)
def test_the_log_says_how_often_a_run_saves_and_of_a_long_warmup(duration, extra, said, data, tmp_path):
    options = {**OPTIONS, **extra, "duration": duration}

    class Ends(Hook):
        def on_start(self, run, folder):
            run.stop.requested = True

    try:
        elucid.train(elucid.TrainOptions(data=data, outdir=tmp_path, **options), hooks=[Ends()])
    except elucid.Stopped as stopped:
        log = (stopped.folder / "log.txt").read_text()
    for words in said:
        assert words in log
    assert ("note: the learning rate rises over the first 2 kimg" in log) == (duration < 0.002)
