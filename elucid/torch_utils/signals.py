"""Signals that ask a run to stop."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from elucid.torch_utils import distributed


class StopRequest:
    """Whether a stop is `requested`, and since when."""

    requested = False
    since = 0.0


SAME_SIGNAL = 1.0
"""Seconds within which a second signal is the first one's echo: launchers pass on what the terminal sent to all."""


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """SIGTERM and Ctrl-C set `requested`, so that the step is finished first; a second one acts at once.

    In another thread than the main one signals stay as they are.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield stop
        return

    def handle(number, frame):
        now = time.monotonic()
        if not stop.requested:
            stop.requested, stop.since = True, now
            if distributed.is_main():  # not by print, which may be at work where the signal came
                os.write(2, b"\nstopping after this step, with a state to resume from; once more stops at once\n")
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
