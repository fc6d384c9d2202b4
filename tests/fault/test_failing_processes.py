"""However many processes there are, an error is one line and every one ends with code 2; Ctrl-C ends at once."""

import re
import signal
import subprocess
import time

import pytest

from tests import scripts
from tests.snapshots import save_random_snapshot


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return save_random_snapshot(tmp_path_factory.mktemp("model") / "model.pkl", channels=1)


def failed(done) -> tuple[list[str], set[str]]:
    """The error lines, and the exit codes that torchrun reports; no traceback but torchrun's own.

    Newer versions report every process, torch 2.9 only those that had ended when it looked.
    """
    assert done.stderr.count("Traceback (most recent call last)") == 1 and "[rank" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return lines, set(re.findall(r"exitcode +: (-?\d+)", done.stderr))


@pytest.mark.parametrize(
    "script, flags",
    [
        ("generate.py", ["--network=nowhere.pkl", "--outdir=nowhere", "--device=cpu"]),
        ("generate.py", ["--no-such-flag"]),
        ("fid.py", ["calc", "--images=nowhere", "--ref=nowhere.npz", "--device=cpu"]),
        ("train.py", ["--data=nowhere", "--outdir=nowhere", "--device=cpu"]),
    ],
)
def test_an_error_of_all_processes_is_printed_once(script, flags):
    done = scripts.run(script, *flags, processes=2, code=1, torchrun=True)
    lines, codes = failed(done)
    assert len(lines) == 1 and ("nowhere" in lines[0] or "--no-such-flag" in lines[0])
    assert codes == {"2"}
    report = done.stderr[done.stderr.rindex("Root Cause") :]
    assert lines[0] in " ".join(report.split()), "torchrun's own report ends with it"


def test_an_error_of_one_process_ends_the_other(network, tmp_path):
    """The second process cannot write an image; the first would work on for hours."""
    (tmp_path / "out/000001.png").mkdir(parents=True)
    flags = [f"--network={network}", f"--outdir={tmp_path / 'out'}", "--device=cpu", "--overwrite", "--batch=1"]
    lines, codes = failed(
        scripts.run("generate.py", *flags, "--seeds=0-99999", "--steps=2", processes=2, code=1, torchrun=True)
    )
    assert len(lines) == 1 and "000001.png cannot be written" in lines[0]
    assert codes == {"2"}


def test_an_error_before_the_processes_have_met(network, tmp_path):
    """Only the first process looks at --grid, while the second waits for it in torch's rendezvous, deaf to signals."""
    flags = [f"--network={network}", f"--outdir={tmp_path / 'out'}", f"--grid={tmp_path}.png", "--device=cpu"]
    tmp_path.with_name(f"{tmp_path.name}.png").mkdir()
    began = time.monotonic()
    lines, codes = failed(scripts.run("generate.py", *flags, "--seeds=0", processes=2, code=1, torchrun=True))
    assert len(lines) == 1 and "is a folder" in lines[0] and codes == {"2"}
    assert time.monotonic() - began < 25, "not killed at last by torchrun"


def test_ctrl_c_does_not_wait_for_images_in_the_making(network, tmp_path):
    flags = [f"--network={network}", f"--outdir={tmp_path / 'out'}", "--device=cpu", "--seeds=0-9"]
    process = subprocess.Popen(
        scripts.command("generate.py", *flags, "--steps=1000000"),  # hours
        env=scripts.environment(),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=scripts.heed_ctrl_c,
    )
    try:
        said = ""
        while "sampling" not in said:
            said += process.stderr.read(1)
            assert process.poll() is None, said
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 130 and err.splitlines()[-1] == "error: interrupted" and "Traceback" not in err
    assert not list((tmp_path / "out").iterdir())
