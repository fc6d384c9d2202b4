"""Reasons to stop a run: signals, a time limit, hooks, and a launcher that is gone; shared by all its processes."""

import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from elucid.dnnlib.errors import EXIT_STOPPED
from elucid.dnnlib.launcher import launcher_is_gone
from elucid.torch_utils import distributed

STOPPING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
"""Signals that stop a run: of schedulers, of Ctrl-C, of SLURM's --signal, of a terminal that is closed."""

SAME_SIGNAL = 1.0
"""Seconds in which a second signal is ignored, as launchers forward signals that the terminal sent to all processes."""

GRACE = 10.0
"""Seconds after which a start-up that does not react to a signal, such as a wait for other nodes, is ended."""

POLL = 0.5
"""Seconds between two looks at the launcher and at the requests of other processes."""


class StartStopped(KeyboardInterrupt):
    """Raised in the main thread by a signal before training has begun, when there is nothing to save."""


class StopRequest:
    """Whether a run is to stop after its step, since when, and why.

    Hooks may read `requested` during long work, and set it. With a time limit, it becomes true early enough to save:
    `reserve` seconds before `end`, a time of `time.monotonic()`.
    """

    def __init__(self):
        self.since, self.reason = 0.0, ""
        self.end, self.reserve = math.inf, 0.0
        self.training = False  # a state can be saved
        self._requested = False
        self._looked, self._longest = math.inf, 0.0
        self._asked: Callable[[], bool] | None = None

    @property
    def requested(self) -> bool:
        if not self._requested and time.monotonic() > self.end - self.reserve - self._longest:
            self.request("time limit")
        return self._requested

    @requested.setter
    def requested(self, value: bool) -> None:
        if value:
            self.request("request")
        else:
            self._requested = False

    def request(self, reason: str) -> None:
        """Ask for a stop; only the first reason counts."""
        if not self._requested:
            self._requested, self.since, self.reason = True, time.monotonic(), reason

    def agreed(self) -> bool:
        """Return, on all processes, whether one of them is to stop. To be called once per step, by all together.

        Several processes exchange their requests during a step, and so learn of one a step later.
        """
        now = time.monotonic()
        steps = 1 if distributed.world_size() == 1 else 2
        self._longest = max(steps * (now - self._looked), 0.9 * self._longest)  # the next ones may take as long
        self._looked = now
        asked = distributed.any_rank_later(self.requested)
        earlier, self._asked = self._asked, asked
        if distributed.world_size() == 1:
            return asked()
        return earlier() if earlier is not None else False


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Let each signal of `STOPPING` request a stop: of the start-up at once, of training after the current step.

    Before `training` is set it raises StartStopped; afterwards it sets `requested`. A second signal raises
    KeyboardInterrupt at once. The end of torchrun counts as a signal. Handlers need the main thread; in others
    nothing is done. SIGHUP stays ignored under nohup.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number, frame):
        now = time.monotonic()
        if not stop._requested:
            stop.request(signal.Signals(number).name)
            what = b"stopping after this step and saving a state" if stop.training else b"stopping"
            if distributed.is_main():  # not print, which the signal may have interrupted
                with suppress(OSError):  # the terminal may be gone
                    os.write(2, b"\n" + what + b"; send the signal again to stop at once\n")
            if not stop.training:
                raise StartStopped
        elif now - stop.since > SAME_SIGNAL:
            signal.default_int_handler(number, frame)

    previous = {one: signal.getsignal(one) for one in STOPPING}
    if previous.get(getattr(signal, "SIGHUP", None)) is signal.SIG_IGN:
        del previous[signal.SIGHUP]
    watcher = _Watcher(stop)
    try:
        for one in previous:
            signal.signal(one, handle)
        watcher.start()
        yield stop
    finally:
        watcher.finish()
        for one, old in previous.items():
            signal.signal(one, old)


class _Watcher(threading.Thread):
    """Sees what the main thread cannot while it waits in torch: signals, requests of others, the end of torchrun."""

    def __init__(self, stop: StopRequest):
        super().__init__(daemon=True)
        self.stop, self.done = stop, threading.Event()
        self.launched = bool(os.environ.get("TORCHELASTIC_RUN_ID"))
        self.read, self.write = os.pipe()
        os.set_blocking(self.write, False)
        self.earlier = signal.set_wakeup_fd(self.write, warn_on_full_buffer=False)
        self.arrived: float | None = None

    def run(self) -> None:
        told, store = distributed.world_size() == 1, distributed.agent_store()
        while not self.done.is_set():
            ready, _, _ = select.select([self.read], [], [], POLL)
            if ready and set(os.read(self.read, 512)) & set(STOPPING) and self.arrived is None:
                self.arrived = time.monotonic()
            if self.launched and launcher_is_gone():
                self._interrupt("torchrun is gone")
            if not self.stop.training:
                if self.arrived is not None and time.monotonic() - self.arrived > GRACE and not self.done.is_set():
                    os._exit(EXIT_STOPPED)
                continue
            if not told:
                told = store is None or self._share(store)

    def _share(self, store) -> bool:
        """Tell the other processes of a request, or take over theirs; returns True when there is nothing more to do."""
        key = f"elucid/stop/{distributed.session()}"
        try:
            if self.arrived is not None or self.stop.requested:
                store.add(key, 1)
                return True
            if store.add(key, 0) > 0:
                self.stop.request("")
                return True
        except RuntimeError:  # torchrun is gone
            return True
        return False

    def _interrupt(self, reason: str) -> None:
        self.launched = False
        if self.stop.training:
            self.stop.request(reason)
        else:
            os.kill(os.getpid(), signal.SIGTERM)

    def finish(self) -> None:
        self.done.set()
        signal.set_wakeup_fd(self.earlier)
        os.write(self.write, b"\0")
        self.join(timeout=2)
        if not self.is_alive():  # it may hang in a connection to a torchrun that is gone
            os.close(self.read)
            os.close(self.write)
