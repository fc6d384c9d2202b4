"""How often training and sampling wait for the device, counted on a simulated one."""

import json

import pytest

from tests import scripts


@pytest.fixture(scope="module")
def counts(tmp_path_factory):
    """What each case of `workers.py` gives."""
    folder = tmp_path_factory.mktemp("device")
    scripts.run("tests/device/workers.py", folder, folder / "counts.json")
    return json.loads((folder / "counts.json").read_text())


def test_the_simulated_device_refuses_and_counts(counts):
    """Waits, copies to the device, copies to the host and launches."""
    seen = dict(counts["itself"])
    assert "expected all tensors on one device" in seen.pop("sum of two devices")
    assert seen == {
        "product with a number": [0, 0, 0, 1],
        "product with a scalar of the host": [0, 0, 0, 1],
        "a number from the host": [1, 1, 0, 0],
        "item": [1, 0, 0, 2],
        "truth": [1, 0, 0, 2],
        "tolist": [1, 0, 0, 0],
        "copy to the host": [1, 0, 1, 0],
        "copy to the host, later": [0, 0, 1, 0],
        "copy to the device": [1, 1, 0, 0],
        "copy to the device, later": [0, 1, 0, 0],
        "mask": [1, 0, 0, 1],
        "index on the host": [1, 1, 0, 1],
        "nonzero": [1, 0, 0, 1],
        "view": [0, 0, 0, 0],
    }


@pytest.mark.parametrize(("case", "waits"), [("edm", 8), ("accumulated", 13)])
def test_a_steady_step(counts, case, waits):
    """It trains as on the CPU, up to rounding."""
    seen = counts[case]
    assert seen["difference"] < 2e-5
    assert sum(seen["waits"].values()) <= waits * seen["steps"], seen["waits"]


def test_guided_sampling(counts):
    """The images are those of the CPU."""
    seen = counts["sampling"]
    assert seen["difference"] == 0
    assert sum(seen["waits"].values()) <= 10, seen["waits"]
