"""Handles signals that request a run to stop."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from elucid.torch_utils import distributed


class StopRequest:
    """A stop request: whether it is `requested`, and since when."""

    requested = False
    since = 0.0


SAME_SIGNAL = 1.0
"""Seconds in which a second signal is ignored, as launchers forward signals that the terminal sent to all processes."""


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Let SIGTERM and Ctrl-C set `requested`, so that the current step is finished; a second signal acts immediately.

    Does nothing in threads other than the main thread.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
        yield stop
        return

    def handle(number, frame):
        now = time.monotonic()
        if not stop.requested:
            stop.requested, stop.since = True, now
            if distributed.is_main():  # not print, which the signal may have interrupted
                os.write(2, b"\nstopping after this step and saving a state; send the signal again to stop at once\n")
        elif now - stop.since > SAME_SIGNAL:
            signal.signal(number, previous[number])
            signal.raise_signal(number)

    previous = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        for one in previous:
            signal.signal(one, handle)
        yield stop
    finally:
        for one, old in previous.items():
            signal.signal(one, old)
