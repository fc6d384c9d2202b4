"""Requests to stop a run: the first finishes the step, a later one acts at once, an echo does not."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from elucid.dnnlib import launcher
from elucid.dnnlib.errors import UserError
from elucid.torch_utils import distributed, signals
from elucid.torch_utils.signals import STOPPING, StartStopped, StopRequest
from elucid.training.stopping import limit_time, parse_duration
from tests.scripts import environment


@pytest.mark.parametrize("number", STOPPING)
def test_the_first_signal_asks_and_its_echo_is_ignored(number, capfd, monkeypatch):
    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(number, signal.SIG_DFL)  # which pytest may have been started without
    try:
        with signals.stop_signals() as stop:
            stop.training = True
            assert not stop.requested
            os.kill(os.getpid(), number)
            assert stop.requested and stop.reason == number.name
            os.kill(os.getpid(), number)  # within a second: a launcher passed on what the terminal sent to all
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert capfd.readouterr().err.count("stopping after this step") == 1


def test_a_second_signal_acts_at_once(monkeypatch):
    monkeypatch.setattr(signals, "SAME_SIGNAL", 0.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with signals.stop_signals() as stop:
            stop.training = True
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_before_training_ends_the_start_at_once():
    with pytest.raises(StartStopped), signals.stop_signals() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    assert stop.requested


def test_a_closed_terminal_is_ignored_under_nohup():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.stop_signals() as stop:
            stop.training = True
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_launcher_that_is_gone_asks(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    parent = 4242  # whatever that of these tests is, which may be gone itself
    monkeypatch.setattr(launcher, "PARENT", parent)
    monkeypatch.setattr(os, "getppid", lambda: parent)
    monkeypatch.setattr(signals, "POLL", 0.01)
    with signals.stop_signals() as stop:
        stop.training = True
        time.sleep(0.1)
        assert not stop.requested
        monkeypatch.setattr(os, "getppid", lambda: parent + 1)
        end = time.monotonic() + 10
        while not stop.requested and time.monotonic() < end:
            time.sleep(0.01)
        assert stop.requested and stop.reason == "torchrun is gone"


@pytest.mark.parametrize(
    ("text", "seconds"), [("3h50m", 13800), ("90m", 5400), ("1d12h", 129600), ("1.5h", 5400), ("45", 45), (2.5, 2.5)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5m", "3:50", "h", "3h 50", "nan", "inf", "ten"])
def test_what_is_no_duration(text):
    with pytest.raises(UserError, match="`time_limit`=.* is not a duration; write it like 3h50m"):
        parse_duration(text)


def test_a_time_limit_leaves_room_for_a_save_and_a_step(monkeypatch):
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    stop = StopRequest()
    limit_time(stop, "100s")
    stop.reserve = 20.0
    assert not stop.agreed()
    now = 1010.0  # a step of ten seconds
    assert not stop.agreed()
    now = 1069.0
    assert not stop.requested
    monkeypatch.setattr(time, "time", lambda: 5e9)  # the clock of the machine is set
    assert not stop.requested
    now = 1070.5  # 20 to save, 10 for one more step
    assert stop.requested and stop.reason == "time limit" and stop.agreed()


ORPHAN = """
import os, time
parent = os.getpid()
if os.fork():
    os._exit(0)
while os.getppid() == parent:
    time.sleep(0.01)
from elucid.dnnlib import launcher
print(launcher.PARENT, launcher.launcher_is_gone(), flush=True)
"""


def test_an_orphan_from_the_start_knows_it():
    """Its torchrun was killed while it imported torch."""
    done = subprocess.run([sys.executable, "-c", ORPHAN], capture_output=True, text=True, env=environment())
    parent, gone = done.stdout.split()
    if parent != "1":
        pytest.skip(f"orphans are adopted by process {parent} here")
    assert gone == "True"


def test_a_torchrun_that_is_gone_is_one_line(monkeypatch):
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1", "TORCHELASTIC_USE_AGENT_STORE": "True", "WORLD_SIZE": "2"}
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "STORE_SECONDS", 0.2)
    with pytest.raises(UserError, match="torchrun cannot be reached at 127.0.0.1:1"):
        distributed.init(torch.device("cpu"))
