"""Signals that ask a run to stop: the first finishes the step, a later one acts at once, an echo does not."""

import os
import signal
import threading

import pytest

from elucid.torch_utils import signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_its_echo_is_ignored(number, capfd):
    assert threading.current_thread() is threading.main_thread()
    before = signal.getsignal(number)
    with signals.stop_signals() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
        os.kill(os.getpid(), number)  # within a second: a launcher passed on what the terminal sent to all
    assert signal.getsignal(number) is before
    assert capfd.readouterr().err.count("stopping after this step") == 1


def test_a_second_signal_acts_at_once(monkeypatch):
    monkeypatch.setattr(signals, "SAME_SIGNAL", 0.0)
    monkeypatch.setattr(signal, "default_int_handler", signal.default_int_handler)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with signals.stop_signals():
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
