"""Loggers of services: what they write is read back with the service's own library, where that is installed."""

import json
import math
import os
import subprocess
import sys

import pytest
from PIL import Image

from elucid.dnnlib.config import set_by_path
from elucid.dnnlib.errors import UserError
from elucid.training.loggers.base import flat, remembered, require_package
from elucid.training.loggers.mlflow import MLflow
from elucid.training.loggers.tensorboard import TensorBoard
from elucid.training.loggers.trackio import Trackio
from elucid.training.loggers.wandb import WandB

OPTIONS = {"network": {"name": "ddpmpp", "model_channels": 8}, "loop": {"seed": 0}}
ABOUT = {"command": "train.py --data=x", "commit": "abc+"}


def values(loss):
    return {"Loss/loss": {"num": 2, "mean": loss, "std": 0.5}, "Progress/kimg": {"num": 1, "mean": 1.0, "std": 0.0}}


def log(logger, folder, nimgs, start=0):
    picture = folder / "samples.png"
    Image.new("L", (4, 4), 128).save(picture)
    logger.describe(ABOUT)
    logger.start(OPTIONS, start)
    for nimg in nimgs:
        logger.values(values(nimg / 1000), nimg)
    logger.image("samples", picture, nimgs[-1])
    logger.close()


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log(TensorBoard(tmp_path), tmp_path, [1000, 2000, 3000])
    log(TensorBoard(tmp_path), tmp_path, [2500], start=2000)  # resumed from a state before the last tick
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("Loss/loss")] == [(1000, 1.0), (2000, 2.0), (2500, 2.5)]
    assert [one.step for one in events.Images("samples")] == [2500]
    texts = [events.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]]
    assert any('"model_channels": 8' in text for text in texts) and any("abc+" in text for text in texts)


def test_wandb_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log(WandB(tmp_path, project="tests", mode="offline"), tmp_path, [1000, 2000])
    name = (tmp_path / "wandb-run.txt").read_text().strip()
    files = list(tmp_path.glob(f"wandb/offline-run-*-{name}/run-{name}.wandb"))
    assert len(files) == 1
    content = files[0].read_bytes()
    assert b"Loss/loss" in content and b"model_channels" in content and b"abc+" in content
    log(WandB(tmp_path, project="tests", mode="offline"), tmp_path, [3000], start=2000)
    assert (tmp_path / "wandb-run.txt").read_text().strip() == name


def test_mlflow_in_a_file(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    for nimgs, start in (([1000, 2000], 0), ([3000], 2000)):
        log(MLflow(tmp_path, tracking_uri=uri, experiment="tests"), tmp_path, nimgs, start)
    client = mlflow.MlflowClient(uri)
    run = (tmp_path / "mlflow-run.txt").read_text().strip()
    history = client.get_metric_history(run, "Loss/loss")
    assert [(one.step, one.value) for one in history] == [(1000, 1.0), (2000, 2.0), (3000, 3.0)]
    assert client.get_run(run).data.params["network.model_channels"] == "8"
    assert {one.path for one in client.list_artifacts(run)} == {"options.json", "environment.json", "samples"}
    assert client.get_run(run).info.status == "FINISHED"


def test_trackio_on_this_machine(tmp_path):
    pytest.importorskip("trackio")
    code = f"""
import runpy
from pathlib import Path
own = runpy.run_path({__file__!r})  # other packages, too, install one called `tests`
Trackio, log = own["Trackio"], own["log"]
folder = Path({str(tmp_path)!r}) / "run"
folder.mkdir()
log(Trackio(folder), folder, [1000, 2000])
import json, trackio
run = trackio.Api().runs("elucid")[0]
from trackio.sqlite_storage import SQLiteStorage
print(json.dumps([run.name, SQLiteStorage.get_logs("elucid", run.name), str(run.config)], default=str))
"""
    where = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run([sys.executable, "-c", code], env=where, capture_output=True, text=True, timeout=120)
    assert said.returncode == 0, said.stderr
    name, history, config = json.loads(next(line for line in said.stdout.splitlines() if line.startswith("[")))
    assert name.startswith("run-") and "abc+" in config
    assert [row["Loss/loss"] for row in history if "Loss/loss" in row] == [1.0, 2.0]


@pytest.mark.parametrize("logger", [TensorBoard, WandB, MLflow, Trackio])
def test_a_missing_package_is_named_with_its_extra(logger, monkeypatch):
    monkeypatch.setattr("elucid.training.loggers.base.find_spec", lambda name: None)
    with pytest.raises(UserError, match=rf"pip install 'elucid\[{logger.package}\]'"):
        require_package(logger)


def test_a_name_is_remembered(tmp_path):
    names = iter("ab")
    assert [remembered(tmp_path / "run.txt", lambda: next(names)) for _ in range(2)] == ["a", "a"]


def test_flat():
    assert flat(OPTIONS) == {"network.name": "ddpmpp", "network.model_channels": 8, "loop.seed": 0}
    assert math.isclose(flat({"a": {"b": {"c": 1.5}}})["a.b.c"], 1.5)


def test_options_of_a_logger_by_its_name():
    options = {"loggers": [{"name": "wandb"}, {"name": "mlflow"}]}
    set_by_path(options, "loggers.wandb.project=mine")
    assert options["loggers"][0] == {"name": "wandb", "project": "mine"}
    for wrong in ("loggers.tensorboard.x=1", "loggers.wandb=1"):
        with pytest.raises(UserError, match="loggers"):
            set_by_path(options, wrong)
