"""Snapshots and states that format 1 wrote: the same images, and the same continuation.

`tests/fixtures/format1` was made by version 0.1: six tiny runs on `data.zip`, their snapshot and state after 96 images,
and in `expected.npz` what that version made of them: images of seeds 0 to 3 in 6 steps, and weights after 160 images.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from elucid.torch_utils.checkpoint import newest_state
from tests import scripts

FOLDER = Path(__file__).parent.parent / "fixtures" / "format1"
RUNS = ["edm", "vp", "ve", "iddpm", "patch", "plugin"]


@pytest.fixture(scope="module")
def expected():
    with np.load(FOLDER / "expected.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Run a script in a folder with the data set and the plug-in."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as when the files were made
    for name in ("data.zip", "plugin.py"):
        shutil.copy(FOLDER / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ELUCID_PLUGINS", "plugin.py")
    for name in [name for name in sys.modules if name.startswith("elucid_plugin_")]:
        monkeypatch.delitem(sys.modules, name)

    def run(script, *args):
        code, out, err = scripts.call(monkeypatch, capsys, script, *args)
        assert code == 0, err
        return out

    yield run
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [*RUNS, "edm-cfg"])
def test_snapshots_give_the_same_images(name, call, expected):
    more = ["--cfg=1.5", "--ema=0.001", "--S_churn=10"] if name == "edm-cfg" else []
    network = FOLDER / f"{name.removesuffix('-cfg')}.pkl"
    call("generate.py", f"--network={network}", "--outdir=out", "--seeds=0-3", "--steps=6", "--device=cpu", *more)
    images = np.stack([np.array(Image.open(f"out/{seed:06d}.png")) for seed in range(4)])
    difference = np.abs(images.astype(int) - expected[f"{name}.images"])
    assert difference.max() <= 1 and difference.mean() < 0.01  # other processors round otherwise


@pytest.mark.parametrize("name", RUNS)
def test_states_continue_in_the_same_way(name, call, expected):
    Path("run").mkdir()
    shutil.copy(FOLDER / f"{name}.pt", "run/training-state-000000.pt")
    call("train.py", "--resume=run", "--duration=0.00016", "--device=cpu")
    _, state = newest_state(Path("run"))
    assert state["nimg"] == expected[f"{name}.nimg"] and state["position"] == expected[f"{name}.position"]
    weights = {key: torch.from_numpy(expected[f"{name}.objective.{key}"]) for key in state["objective"]}
    assert relative_error(state["objective"].values(), weights.values()) < 1e-3  # 0 on the machine that made them
    for ema, average in state["ema"].items():
        old = torch.from_numpy(expected[f"{name}.ema.{ema}"])
        assert relative_error(average.values(), [old]) < 1e-3


def relative_error(values, reference) -> float:
    """Of all numbers of the tensors together."""
    value, reference = (torch.cat([one.double().ravel() for one in part]) for part in (values, reference))
    return float((value - reference).norm() / reference.norm())


def test_plain_pickle_reads_them(root):
    code = f"import pickle; print(type(pickle.load(open({str(FOLDER / 'edm.pkl')!r}, 'rb'))['ema']).__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "EDMPrecond", done.stderr
