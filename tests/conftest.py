"""Fixtures shared by all tests. Conformance cases are found by listing the folder in `VECTORS`."""

import os
import signal
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from elucid.api import estimate  # noqa: E402

torch.set_num_threads(max(1, (os.cpu_count() or 2) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))))


@pytest.fixture(autouse=True)
def no_timed_step(monkeypatch):
    """Dry runs of full-size networks check options only."""
    monkeypatch.setattr(estimate, "PATIENCE", 0)


@pytest.fixture(scope="session", autouse=True)
def cache_of_the_tests(tmp_path_factory):
    """References of images are not kept in the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ELUCID_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's folder, where the scripts lie."""
    return ROOT


SIGNALS = {
    number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Undo what commands that ran in this process did to signals: a forked pool with a handler of SIGTERM may hang."""
    try:
        return (yield)
    finally:
        for number, handler in SIGNALS.items():
            signal.signal(number, handler)


SLOW = ROOT / "tests" / "slow.txt"


def pytest_collection_modifyitems(items):
    """Mark the tests that `make test-all` runs and `make test` does not."""
    listed = {line for line in SLOW.read_text().splitlines() if line and not line.startswith("#")}
    for item in items:
        whole, _, _ = item.nodeid.partition("[")
        if listed & {item.nodeid, whole, whole.partition("::")[0]}:
            item.add_marker("slow")
