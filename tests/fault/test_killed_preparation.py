"""A conversion that is killed leaves nothing under the destination's name, and no process behind."""

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import scripts


@pytest.fixture
def process(tmp_path):
    """dataset_tool.py with workers, at work for a minute, in a session of its own."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8))
    (tmp_path / "pictures").mkdir()
    picture.save(tmp_path / "pictures/0.jpg")
    for number in range(1, 3000):
        os.link(tmp_path / "pictures/0.jpg", tmp_path / f"pictures/{number}.jpg")
    flags = [f"--source={tmp_path / 'pictures'}", f"--dest={tmp_path / 'set.zip'}", "--resolution=512x512"]
    running = subprocess.Popen(
        scripts.command("dataset_tool.py", *flags, "--workers=2"),
        env=scripts.environment(),
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=scripts.heed_ctrl_c,
    )
    end = time.monotonic() + 60
    while len(session(running.pid)) < 4:  # itself, what starts workers, two workers
        assert running.poll() is None and time.monotonic() < end
        time.sleep(0.1)
    yield running
    for pid in session(running.pid):
        os.kill(pid, signal.SIGKILL)


def session(leader: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, number = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(number) == leader and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="lists processes by /proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_midway(process, number, tmp_path):
    time.sleep(1)
    process.send_signal(number)
    assert process.wait(timeout=20) == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    end = time.monotonic() + 10
    while session(process.pid):
        assert time.monotonic() < end, "workers live on"
        time.sleep(0.1)
    left = sorted(path.name for path in tmp_path.iterdir() if path.name != "pictures")
    assert left == [] or number == signal.SIGKILL and left[0].startswith(".set.zip.") and left[0].endswith(".tmp")
