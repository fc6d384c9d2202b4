"""The Python API takes paths as texts or as `Path`s, and names the argument that is wrong."""

import json

import pytest

import elucid


def test_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "digits.zip"
    elucid.datasets.prepare("builtin:digits-test", data, max_images=80)
    small = {"network.num_blocks": 1, "network.attn_resolutions": [], "loop.grid_images": 0}
    options = {"data": data, "outdir": tmp_path / "runs", "cond": True, "cbase": 16, "cres": [1, 2], "device": "cpu"}
    run = elucid.train(elucid.TrainOptions(**options, batch=8, duration=0.000016, tick=1, set=small))
    assert json.loads((run / "training_options.json").read_text())["dataset"]["path"] == str(data)
    assert elucid.train(elucid.TrainOptions(resume=run, duration=0.000032, device="cpu")) == run
    elucid.reference(data, tmp_path / "digits.npz", detector="random", device="cpu")
    score = elucid.score(data, tmp_path / "digits.npz", num=80, device="cpu")
    assert score.value == pytest.approx(0, abs=1e-3)
    assert json.loads(json.dumps(score.as_dict()))["images"] == str(data)
    with pytest.raises(elucid.UserError, match="`seeds` is empty"):
        elucid.load(run, device="cpu").sample(seeds=[])
