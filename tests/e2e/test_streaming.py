"""Training from shards of a web server: killed and resumed to the bit, and a shard that is missing is named."""

import signal

import pytest

from elucid.torch_utils.checkpoint import load_state
from tests import scripts, shards
from tests.fault.test_resume import assert_same

pytest.importorskip("aiohttp")

FLAGS = [*scripts.TINY, "--duration=0.00008", "--batch=16", "--tick=0.016", "--snap=0", "--dump=1", "--ema=0.0005"]
FLAGS += ["--cond=1", "--nosubdir", '--set=dataset.reader={"name":"shards","window":3}', "--set=loop.grid_images=0"]
LAST = "training-state-000000.080.pt"
"""Five steps on sixty images, so that an epoch ends amid the fourth."""

KILLER = """
import os, runpy, signal, sys
from elucid.training.data.loading.stream import BatchStream
real = BatchStream.next
def next(stream, count):
    if stream.position >= 16 * 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(stream, count)
BatchStream.next = next
sys.argv[0] = "TRAIN"
runpy.run_path("TRAIN", run_name="__main__")
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    shards.write(shards.pictures(folder / "pictures"), folder / "shards")
    return folder / "shards"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


def arguments(data, outdir) -> list[str]:
    return [*FLAGS, f"--data={data}", f"--outdir={outdir}"]


def test_killed_amid_an_epoch_and_resumed_elsewhere(written, tmp_path):
    """The undisturbed run reads a folder; the other one a server that fails, with a cache for half of the shards."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    scripts.run("train.py", *arguments(written, straight), folder=straight)
    small = {**scripts.environment(killed), "ELUCID_CACHE_GB": str(7 * 10240 / 1e9)}
    with shards.served(written, lambda name, number: 503 if number % 3 == 1 else None) as (url, _):
        (tmp_path / "killer.py").write_text(KILLER.replace("TRAIN", str(scripts.ROOT / "train.py")))
        done = scripts.finished(small, str(tmp_path / "killer.py"), *arguments(url, killed))
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert scripts.newest(killed, "training-state").name < LAST
        resumed = scripts.finished(small, "train.py", f"--resume={killed}", "--device=cpu", f"--data={url}/")
        assert resumed.returncode == 0, resumed.stderr
    state = load_state(straight / LAST)
    assert state["order"] == "shards-3"
    assert_same(state, load_state(killed / LAST))


def test_a_missing_shard_ends_in_one_line(written, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path))
    with shards.served(written, lambda name, number: 404 if name == "shard-000004.tar" else None) as (url, _):
        code, _, err = scripts.call(monkeypatch, capsys, "train.py", *arguments(url, tmp_path / "run"))
    assert code == 2 and err.strip().splitlines()[-1].startswith("error: ")
    assert f"{url}/shard-000004.tar" in err.splitlines()[-1]


def test_the_command_writes_what_training_reads(written, tmp_path, monkeypatch, capsys):
    options = ["shards", f"--source={written.parent / 'pictures'}", f"--dest={tmp_path / 'shards'}"]
    code, out, _ = scripts.call(monkeypatch, capsys, "dataset_tool.py", *options, "--shard-mb=0.01024")
    assert code == 0 and "60 images" in out and "15 shards" in out and "2 classes" in out
    found, wanted = ({path.name: path.read_bytes() for path in one.iterdir()} for one in (tmp_path / "shards", written))
    assert found == wanted, "the same each time"
    code, _, err = scripts.call(monkeypatch, capsys, "dataset_tool.py", *options)
    assert code == 2 and "--dest" in err.splitlines()[-1]
