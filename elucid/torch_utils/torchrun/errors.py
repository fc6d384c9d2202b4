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
from functools import cache

import torch.distributed as dist

from elucid.dnnlib.cli import SingleProcess
from elucid.torch_utils.distributed import agent_store, is_main, restarts_allowed, session, world_size

PATIENCE = 2.0
"""Seconds that a failing process waits for the others, which may fail in the same way."""

GRACE = 5.0
"""Seconds that the other processes have to clean up when torchrun terminates them."""


class TorchrunProcesses(SingleProcess):
    """The other processes of this command."""

    def __init__(self):
        _early_failures()

    @property
    def is_main(self) -> bool:
        return is_main()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch in a thread, since collectives in torch notice neither failures of others nor signals."""
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(agent_store(), done), daemon=True)
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
        store = agent_store()
        if store is None:
            return True
        ignore_signals()
        tell_torchrun(f"error: {message}")
        first = _failures(store, 1) == 1
        _wait(lambda: _failures(store) >= world_size(), PATIENCE)
        return first

    def another_failed(self, patience: float = 0) -> bool:
        store = agent_store()
        if store is None:
            return False
        ignore_signals()
        return _wait(lambda: _failures(store) > 0, patience)


_KEY = "elucid/failures/"


def _failures(store: dist.TCPStore, more: int = 0) -> int:
    """Return how many processes have failed, of those that have met or, before that, since this one has started."""
    return store.add(_KEY + session(), more) - (0 if session() else _early_failures())


@cache
def _early_failures() -> int:
    """Return how many had failed when this was called first: torchrun's store outlives those that it restarts."""
    store = agent_store() if restarts_allowed() else None
    return 0 if store is None else store.add(_KEY, 0)


def remember(name: str, value: str | None = None) -> str | None:
    """Return what the processes of this job, before or after a restart, have remembered; with a value, remember it.

    None if there is nothing, and outside of torchrun's elastic jobs.
    """
    store = agent_store(alone=True) if restarts_allowed() else None
    if store is None:
        return None
    key = f"elucid/memory/{name}"
    with suppress(RuntimeError):
        if value is not None:
            store.set(key, value)
        elif store.check([key]):
            return store.get(key).decode()
    return value


def end_torchrun() -> None:
    """Let torchrun stop, which would otherwise start these processes again, as they end with an exit code."""
    if restarts_allowed() and os.environ.get("LOCAL_RANK") == "0":
        os.kill(os.getppid(), signal.SIGTERM)


def tell_torchrun(message: str) -> None:
    """Leave the message where torchrun looks for it: it ends its own report with it, after its traceback."""
    place = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if place:
        with suppress(OSError), open(place, "w", encoding="utf-8") as file:
            json.dump({"message": message, "timestamp": int(time.time())}, file)


def ignore_signals() -> None:
    """Ignore signals, since this process is about to exit with the right code."""
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


def _watch(store: dist.TCPStore | None, done: threading.Event) -> None:
    """Return when `done` is set; terminate this process if another has failed and it does not exit by itself."""
    if store is None:
        return
    try:
        while not done.wait(1) and not _failures(store):
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
