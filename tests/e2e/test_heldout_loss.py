"""evaluate.py loss, and train.py --heldout, which changes nothing of the training."""

import json

import numpy as np
import pytest
import torch

import elucid
from elucid.evaluation.results import load_result
from elucid.training.snapshots.snapshot import load_snapshot
from tests import scripts
from tests.snapshots import save_random_snapshot, save_random_upsampler
from tests.vaes import save_pictures

TRAIN = [*scripts.TINY, "--cond=1", "--batch=8", "--duration=0.000048", "--tick=0.016", "--snap=1", "--dump=1"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with images and two runs, one with --heldout."""
    folder = tmp_path_factory.mktemp("heldout")
    data = save_pictures(folder / "train.zip", count=12, size=8)
    held_out = save_pictures(folder / "test.zip", count=9, size=8)
    save_pictures(folder / "large.zip", count=4, size=16)
    save_random_upsampler(folder / "large.pkl")
    save_random_snapshot(folder / "other.pkl", classes=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELUCID_CACHE", str(folder / "cache"))
        small = {"network.num_blocks": 1, "network.attn_resolutions": [], "loop.grid_images": 0}
        shape = {"cbase": 16, "cres": [1, 2], "dropout": 0.1, "augment": 0.2, "set": small}
        length = {"duration": 48e-6, "tick": 0.016, "snap": 1, "dump": 1}
        how = {"data": data, "cond": True, "batch": 8, "seed": 7, "nosubdir": True, "device": "cpu", **shape, **length}
        elucid.train(elucid.TrainOptions(outdir=folder / "without", **how))
        elucid.train(elucid.TrainOptions(outdir=folder / "with", heldout=held_out, **how))
    return folder


@pytest.fixture
def call(monkeypatch, capsys):
    def call(script, *args, code=0):
        found, out, err = scripts.call(monkeypatch, capsys, script, *args, "--device=cpu")
        assert found == code, err
        return err if code else out

    return call


def test_a_run_is_the_same_with_and_without(place):
    plain, watched = (torch.load(scripts.newest(place / name, "training-state")) for name in ("without", "with"))
    for part in ("objective", "ema", "optimizers", "processes"):
        before, after = (_tensors(state[part]) for state in (plain, watched))
        assert before.keys() == after.keys() and before
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_statistics_of_a_run(place):
    lines = [json.loads(line) for line in (place / "with/stats.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and all("Heldout/loss" in line and "Timing/heldout_sec" in line for line in lines)
    names = [name for name in lines[-1] if name.startswith("Heldout/")]
    assert len(names) == 2 + 2 + 2 * 4
    last = {name: lines[-1][name]["mean"] for name in names}
    assert last["Heldout/gap"] == pytest.approx(last["Heldout/loss"] - last["Heldout/train_loss"])
    assert lines[-1]["Heldout/loss"]["num"] == 9 and lines[-1]["Heldout/train_loss"]["num"] == 12
    levels = [last[name] for name in names if name.startswith("Heldout/loss_sigma")]
    assert np.mean(levels) == pytest.approx(last["Heldout/loss"])
    assert "held out" in (place / "with/log.txt").read_text()
    # The command finds the same: images, noise, levels and weights are the same.
    result = elucid.heldout_loss(place / "with", place / "train.zip", place / "test.zip", sigmas=4, device="cpu")
    assert result.about["test_loss"] == pytest.approx(last["Heldout/loss"], rel=1e-5)
    assert "Heldout/loss" not in json.loads((place / "without/stats.jsonl").read_text().splitlines()[0])


def test_the_command(place, call, tmp_path):
    flags = [f"--network={place / 'with'}", f"--data={place / 'train.zip'}", f"--test={place / 'test.zip'}"]
    out = call("evaluate.py", "loss", *flags, "--sigmas=3", f"--dest={tmp_path}/loss.json", "--batch=4")
    result = load_result(tmp_path / "loss.json")
    assert float(out.splitlines()[-1]) == pytest.approx(result.value, rel=1e-5) and result.headline in out
    assert len(result.about["sigmas"]) == 3 and result.about["train_num"] == result.about["test_num"] == 9
    assert "overfitting" in out and len(result.curves) == 2
    again = call("evaluate.py", "loss", *flags, "--sigmas=3", "--batch=64", "--json")
    assert json.loads(again.splitlines()[-1])["value"] == pytest.approx(result.value, rel=1e-4, abs=1e-7)


def test_a_model_of_discrete_levels(place, call):
    flags = ["--precond=ddpm", "--diffusion_steps=50", "--learn_sigma=1", f"--data={place / 'train.zip'}"]
    hook = [f"--heldout={place / 'test.zip'}", "--nosubdir", f"--outdir={place / 'ddpm'}"]
    call("train.py", *TRAIN[:-4], "--duration=0.000008", *flags, *hook)
    found = json.loads((place / "ddpm/stats.jsonl").read_text().splitlines()[-1])
    flags = [f"--network={place / 'ddpm'}", f"--data={place / 'train.zip'}", f"--test={place / 'test.zip'}"]
    result = json.loads(call("evaluate.py", "loss", *flags, "--sigmas=4", "--json").splitlines()[-1])
    assert result["about"]["test_loss"] == pytest.approx(found["Heldout/loss"]["mean"], rel=1e-5)
    levels = load_snapshot(place / "ddpm").ema.levels
    assert all(float((levels - sigma).abs().min()) < 1e-6 * sigma for sigma in result["about"]["sigmas"])


@pytest.mark.parametrize(
    ("test", "extra", "said"),
    [
        ("{}/none.zip", [], "none.zip"),
        ("{}/large.zip", [], "--test: {}/large.zip has size 16x16, the model 8x8"),
        ("{}/test.zip", ["--num=10"], "has 9 images, fewer than --num=10"),
        ("{}/test.zip", ["--dest={}/with"], "is a folder"),
        ("{}/test.zip", ["--network={}/large.pkl"], "models that enlarge images"),
        ("{}/test.zip", ["--network={}/other.pkl"], "has classes 3, the model 4"),
    ],
)
def test_mistakes(place, call, test, extra, said):
    flags = [f"--network={place / 'with'}", f"--data={place / 'train.zip'}", f"--test={test}", *extra]
    err = call("evaluate.py", "loss", *(flag.format(place) for flag in flags), code=2)
    assert said.format(place) in err and len(err.strip().splitlines()) <= 4


@pytest.mark.parametrize(
    ("held_out", "said"), [("none.zip", "none.zip"), ("large.zip", "has size 16x16, the model 8x8")]
)
def test_a_run_with_unfit_images_does_not_begin(place, call, tmp_path, held_out, said):
    flags = [f"--data={place / 'train.zip'}", f"--outdir={tmp_path / 'runs'}", f"--heldout={place / held_out}"]
    assert said in call("train.py", *TRAIN, *flags, code=2)
    assert not (tmp_path / "runs").exists()


def _tensors(values, path=""):
    if isinstance(values, torch.Tensor):
        return {path: values}
    items = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list | tuple) else ()
    )
    return {name: one for key, value in items for name, one in _tensors(value, f"{path}.{key}").items()}
