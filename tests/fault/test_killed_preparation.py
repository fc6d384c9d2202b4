"""A conversion that is killed leaves nothing under the destination's name, and no process behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from elucid.dnnlib import temporaries
from elucid.preparation.writer import open_destination
from tests import scripts

KILLED = """
import os, signal, sys
from elucid.preparation.writer import open_destination
with open_destination(sys.argv[1]) as write:
    write("name", b"data")
    os.kill(os.getpid(), signal.SIGKILL)
"""
WAITING = KILLED.replace("os.kill(os.getpid(), signal.SIGKILL)", "print(flush=True); signal.pause()")


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
    assert [name[:9] + name[-4:] for name in left] == ([".set.zip..tmp"] if number == signal.SIGKILL else [])


def test_the_next_call_removes_what_a_killed_one_left(tmp_path):
    """Of files and folders alike, but not what a living process writes, nor what is of another destination."""
    folder, archive = tmp_path / "set", tmp_path / "set.zip"
    for path in (folder, archive):
        assert subprocess.run([sys.executable, "-c", KILLED, path], cwd=scripts.ROOT).returncode == -signal.SIGKILL
    others = [tmp_path / ".other.zip.0123456789ab.tmp", tmp_path / ".set.zip.mine.tmp"]
    for other in others:
        other.touch()
    writing = subprocess.Popen([sys.executable, "-c", WAITING, archive], cwd=scripts.ROOT, stdout=subprocess.PIPE)
    try:
        assert writing.stdout.readline()
        hidden = {path.name for path in tmp_path.iterdir()}
        assert len(hidden) == 4, "the leftover of the folder, the file being written, two others"
        scripts.run("dataset_tool.py", "--source=builtin:digits", f"--dest={folder}", "--max-images=2")
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {"set", *(name for name in hidden if not name.startswith(".set.") or ".zip" in name)}
    finally:
        writing.kill()
        writing.communicate()
    scripts.run("dataset_tool.py", "--source=builtin:digits", f"--dest={archive}", "--max-images=2")
    assert {path.name for path in tmp_path.iterdir()} == {"set", "set.zip", *(other.name for other in others)}


def test_what_is_taken_for_a_leftover_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    lock, taken = temporaries._lock, []

    def removed_first(path):
        if not taken:
            taken.append(path)
            temporaries.remove_leftovers(tmp_path / "set.zip")
        return lock(path)

    monkeypatch.setattr(temporaries, "_lock", removed_first)
    with open_destination(tmp_path / "set.zip") as write:
        write("name", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"] and taken
