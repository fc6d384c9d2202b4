"""A run that is stopped, or killed while it writes, and resumed ends as if nothing had happened, to the bit."""

import json
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.checkpoint import load_state, newest_state, save_state
from elucid.training.config.options import describe
from elucid.training.config.run_folders import claim
from tests import scripts

LENGTH = ["--duration=0.00128", "--batch=32", "--tick=0.256", "--snap=0", "--dump=2", "--ema=0.0005,0.001"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "pictures"
    rng = np.random.default_rng(0)
    for index in range(40):
        path = folder / str(index % 2) / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(path)
    archive = folder.parent / "pictures.zip"
    scripts.run("dataset_tool.py", f"--source={folder}", f"--dest={archive}")
    return archive


def arguments(data, outdir) -> list[str]:
    return [*scripts.TINY, *LENGTH, "--cond=1", "--augment=0.5", f"--data={data}", f"--outdir={outdir}", "--nosubdir"]


def undisturbed(data, outdir, processes: int):
    scripts.run("train.py", *arguments(data, outdir), processes=processes, folder=outdir)
    return outdir


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """The folder of a run of one process that nothing disturbs."""
    return undisturbed(data, tmp_path_factory.mktemp("straight"), 1)


@pytest.fixture(scope="module")
def straight_of_two(data, tmp_path_factory):
    return undisturbed(data, tmp_path_factory.mktemp("straight2"), 2)


def loss_lines(folder) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in ("Loss/loss", "Progress/kimg", "Progress/tick")} for line in lines]


def assert_same(one, other, place=""):
    """Equal in structure and bits."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), place
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), place
        for key in one:
            if key not in ("elapsed", "options"):
                assert_same(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{place}[{index}]")
    else:
        assert one == other, place


def assert_ends_as(straight, other):
    name = "training-state-000001.280.pt"
    assert_same(load_state(straight / name), load_state(other / name))
    assert loss_lines(straight) == loss_lines(other)
    pickles = [(folder / "network-snapshot-000001.280.pkl").stat().st_size for folder in (straight, other)]
    assert abs(pickles[0] - pickles[1]) < 100  # but for the paths in the options


@pytest.mark.parametrize("run", [("straight", 1), ("straight_of_two", 2)], ids=["one process", "two processes"])
def test_sigterm_and_resume(run, data, tmp_path, request):
    folder, processes = request.getfixturevalue(run[0]), run[1]
    process = subprocess.Popen(
        scripts.command("train.py", *arguments(data, tmp_path), processes=processes),
        env=scripts.environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("tick 1"):
            process.send_signal(signal.SIGTERM)
            break
    rest = process.stdout.read()
    code = process.wait(timeout=120)
    assert "continue with --resume=" in rest, f"exit code {code} after {''.join(said)}{rest}"
    assert list(tmp_path.glob("training-state-*.pt"))
    scripts.run("train.py", *arguments(data, tmp_path), "--resume=auto", processes=processes, folder=tmp_path)
    assert_ends_as(folder, tmp_path)


KILLER = """
import os, runpy, signal, sys
real = os.replace
def replace(source, target):
    if str(target).endswith("training-state-000001.280.pt"):
        with open(source, "r+b") as file:
            file.truncate(1000)
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)
os.replace = replace
sys.argv[:] = ["train.py"] + sys.argv[1:]
runpy.run_path("train.py", run_name="__main__")
"""


def test_killed_while_writing_a_state(straight, data, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KILLER, *arguments(data, tmp_path)],
        env=scripts.environment(tmp_path),
        cwd=scripts.ROOT,
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL
    assert list(tmp_path.glob(".*.tmp")), "the kill came while the state was written"
    scripts.run("train.py", f"--resume={tmp_path}", "--device=cpu", folder=tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))
    assert_ends_as(straight, tmp_path)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--lr=0.5", "optimizer.lr is 0.001 in the run to be resumed"),
        ("--precond=cdm", "loss.name is 'edm' in the run to be resumed, not 'cdm'"),
        ("--loss=patch(edm)", "loss.name is 'edm' in the run to be resumed, not 'patch'"),
        ("--augment=0", "augment is {'name': 'edm', 'p': 0.5} in the run to be resumed"),
        ("--fp16=1", "loop.precision is 'fp32' in the run to be resumed"),
        ("--set=dataset.max_size=7", "dataset.max_size is None in the run to be resumed"),
        ("--data=OTHER", "is not the dataset of the run to be resumed"),
    ],
)
def test_what_would_change_the_run_is_refused(flag, message, straight, tmp_path, monkeypatch, capsys):
    (tmp_path / "other").mkdir()
    for index in range(2):
        Image.new("L", (8, 8)).save(tmp_path / "other" / f"{index}.png")
    (tmp_path / "other" / "dataset.json").write_text('{"labels": [["0.png", 0], ["1.png", 1]]}')
    flag = flag.replace("OTHER", str(tmp_path / "other"))
    before = {path.name: path.read_bytes() for path in straight.glob("*.*")}
    code, _, err = scripts.call(monkeypatch, capsys, "train.py", f"--resume={straight}", "--device=cpu", flag)
    assert code == 2 and err.strip().splitlines()[-1].startswith("error: ") and message in err.splitlines()[-1]
    assert before == {path.name: path.read_bytes() for path in straight.glob("*.*")}


def test_two_runs_cannot_train_in_one_folder(tmp_path):
    with claim(tmp_path):
        with pytest.raises(UserError, match="another process is training in"), claim(tmp_path):
            pass
    with claim(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_runs_of_other_losses_are_called_differently():
    def name(precond: str, loss: dict) -> str:
        options = {"dataset": {"path": "a/b.zip", "use_labels": True}, "network": {"name": "adm"}}
        loop = {"batch_size": 8, "precision": "bf16"}
        return describe({**options, "precond": {"name": precond}, "loss": loss, "loop": loop}, 2, "x/y")

    edm, vp = {"name": "edm"}, {"name": "vp"}
    assert name("edm", edm) == "b-cond-adm-edm-gpus2-batch8-bf16-x_y"
    assert name("vp", vp) == "b-cond-adm-vp-gpus2-batch8-bf16-x_y"
    assert "-adm-cdm-gpus2" in name("edm", {"name": "cdm", "base": edm})
    assert "-adm-pedm-gpus2" in name("edm", {"name": "patch", "base": edm})
    assert "-adm-vp-cdm-vp-gpus2" in name("vp", {"name": "cdm", "base": vp})


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UserError, match="training-state-000001.pt cannot be written: File too large"):
            save_state(tmp_path / "training-state-000001.pt", {"weights": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_newest_whole_state_skips_a_damaged_one(tmp_path, capsys):
    for number in (1, 2):
        save_state(
            tmp_path / f"training-state-00000{number}.500.pt", {"format": "elucid-state", "value": torch.arange(1000)}
        )
    damaged = tmp_path / "training-state-000002.500.pt"
    damaged.write_bytes(damaged.read_bytes()[:700])
    path, state = newest_state(tmp_path)
    assert path.name == "training-state-000001.500.pt" and state["value"].sum() == 499500
    assert "training-state-000002.500.pt is not" in capsys.readouterr().out
    with pytest.raises(UserError, match="training-state-000002.500.pt"):
        load_state(damaged)


def test_a_state_cannot_run_code(tmp_path):
    path = tmp_path / "training-state-000001.pt"
    torch.save({"format": "elucid-state", "attack": time.sleep}, path)
    with pytest.raises(UserError, match="not an intact training state of this program"):
        load_state(path)
