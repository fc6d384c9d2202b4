"""What the processes of one torchrun tell each other when one of them fails: one error line, one exit code.

It goes by the store that torchrun keeps, so it works before the process group exists and after it is broken.
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
"""Seconds that one who fails waits for the others, who may be about to fail in the same way."""

GRACE = 5.0
"""Seconds that the others have, once torchrun tells them to end, to remove what they have half written."""


class TorchrunProcesses(SingleProcess):
    """The other processes of this command."""

    @property
    def is_main(self) -> bool:
        return is_main()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """By a thread: what waits for the others in torch's own code hears neither of their failure nor of signals."""
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(_store(), done), daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()

    def first_to_fail(self, message: str) -> bool:
        """Note a failure; True in the one process that is to print it.

        Returns when all have failed, for torchrun kills the others when one leaves, or when patience ends.
        """
        store = _store()
        if store is None:
            return True
        _ignore_signals()
        _tell_torchrun(message)
        first = store.add(_KEY, 1) == 1
        _wait(lambda: store.add(_KEY, 0) >= world_size(), PATIENCE)
        return first

    def failed(self, patience: float = 0) -> bool:
        store = _store()
        if store is None:
            return False
        _ignore_signals()
        return _wait(lambda: store.add(_KEY, 0) > 0, patience)


_KEY = f"elucid/failures/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"


def _store() -> dist.TCPStore | None:
    """The store that torchrun keeps; None alone, or where it cannot be reached."""
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
    """This process is about to leave anyway, with the right exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _watch(store: dist.TCPStore | None, done: threading.Event) -> None:
    """Return when `done` is set; end this process when another has failed and it does not end by itself."""
    if store is None:
        return
    try:
        while not done.wait(1) and not store.add(_KEY, 0):
            pass
    except RuntimeError:  # torchrun itself has gone
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
