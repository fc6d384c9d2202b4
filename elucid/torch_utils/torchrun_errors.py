"""Coordinates failing processes under torchrun, so that they give one error line and one exit code.

It uses torchrun's store, so it works before the process group exists and after it has failed.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed as dist

from elucid.dnnlib.cli import SingleProcess
from elucid.torch_utils.distributed import is_main, world_size

PATIENCE = 2.0
"""Seconds that a failing process waits for the others, which may fail in the same way."""

GRACE = 5.0
"""Seconds that the other processes have to clean up when torchrun terminates them."""


class TorchrunProcesses(SingleProcess):
    """The other processes of this command."""

    @property
    def is_main(self) -> bool:
        return is_main()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch in a thread, since collectives in torch notice neither failures of others nor signals."""
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(_store(), done), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def report_failure(self, message: str) -> bool:
        """Tell the other processes of this failure; returns True in the process that should print it.

        Returns when all processes have failed, as torchrun kills the others when one exits, or after a time limit.
        """
        store = _store()
        if store is None:
            return True
        _ignore_signals()
        _tell_torchrun(message)
        first = store.add(_KEY, 1) == 1
        _wait(lambda: store.add(_KEY, 0) >= world_size(), PATIENCE)
        return first

    def another_failed(self, patience: float = 0) -> bool:
        store = _store()
        if store is None:
            return False
        _ignore_signals()
        return _wait(lambda: store.add(_KEY, 0) > 0, patience)


_KEY = f"elucid/failures/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"


def _store() -> dist.TCPStore | None:
    """Return torchrun's store; None in a single process or if it cannot be reached."""
    if world_size() == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        return dist.TCPStore(*place, is_master=False, timeout=timedelta(seconds=5), wait_for_workers=False)
    except (RuntimeError, OSError):
        return None


def _tell_torchrun(message: str) -> None:
    """Leave the message where torchrun looks for it: it ends its own report with it, after its traceback."""
    place = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if place:
        with suppress(OSError), open(place, "w", encoding="utf-8") as file:
            json.dump({"message": f"error: {message}", "timestamp": int(time.time())}, file)


def _ignore_signals() -> None:
    """Ignore signals, since this process is about to exit with the right code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _watch(store: dist.TCPStore | None, done: threading.Event) -> None:
    """Return when `done` is set; terminate this process if another has failed and it does not exit by itself."""
    if store is None:
        return
    try:
        while not done.wait(1) and not store.add(_KEY, 0):
            pass
    except RuntimeError:  # torchrun itself has exited
        return
    if not done.wait(GRACE):
        os._exit(2)


def _wait(condition: Callable[[], bool], patience: float) -> bool:
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(0.05)
    return True
