"""A cache that fills for longer than collectives wait does not end the others; the end of who fills it does."""

import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from tests import scripts

WORKER = "tests/distributed/cache_worker.py"
PATIENCE = 2.0  # seconds that collectives wait


@pytest.fixture
def start(tmp_path):
    """Start two processes without torchrun, which would end the second when the first ends."""
    (tmp_path / "pictures").mkdir()
    for index in range(6):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"pictures/{index}.png")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    started = []

    def start(then: str) -> list[subprocess.Popen]:
        args = [tmp_path / "pictures", 0.5, PATIENCE, then]
        for rank in (0, 1):
            own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            environment = scripts.environment(tmp_path) | {name: str(value) for name, value in own.items()}
            command = [sys.executable, str(scripts.ROOT / WORKER), *map(str, args)]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            started.append(subprocess.Popen(command, env=environment, **pipes))
        return started

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_others_wait_as_long_as_it_takes(start):
    """Decoding takes longer than a collective waits before it gives up; so does measuring the deviation."""
    for rank, process in enumerate(start("goes on")):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert f"process {rank} of 2: same True, read {0 if rank else 6}, 0." in out
        waits = "process 1 waits until the cache of decoded images is filled" in err
        assert waits == (rank == 1), err


def test_they_end_when_who_fills_it_is_killed(start):
    first, second = start("dies")
    assert first.wait(timeout=120) == -signal.SIGKILL
    began = time.monotonic()
    out, err = second.communicate(timeout=60)
    assert (second.returncode, out) == (3, "lost\n"), err
    assert time.monotonic() - began < 20
