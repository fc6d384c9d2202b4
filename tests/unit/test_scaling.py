"""The calculated scaling: its limits, and that the page shows what the program prints."""

import pytest

from benchmarks import scaling
from tests import scripts

MACHINE = scaling.Machine(989e12, 0.4, 0.025, 8, 360e9, 40e9, 1e-5, 0.9)
NAME = "DDPM++, CIFAR-10"


def test_the_page_shows_what_is_printed():
    text = (scripts.ROOT / "docs/scaling.md").read_text()
    assert scaling.table(NAME, "bf16", scaling.rows(NAME, MACHINE, 16, strong=True)) in text
    assert all(f"**{name}**, {precision}" in text for name in scaling.NETWORKS for precision in ("tf32", "bf16"))


def test_counts_are_those_of_the_network():
    net = scaling.network(NAME)
    assert net.parameters == net.part(1) == 55_735_299 and net.regions == 33
    assert net.part(8) == pytest.approx(net.parameters / 8, rel=0.01) and net.part(512) > 2 * net.parameters / 512
    assert net.flop == pytest.approx(3 * 2 * 21e9, rel=0.02)


def test_messages_of_rings():
    """n GPUs of a node send (n - 1) / n; a second node takes each GPU's share of it through its own link."""
    quick = scaling.Machine(1, 1, 0, 8, 100.0, 10.0, 0.0, 0.0)
    assert quick.exchange(800, 1) == 0 and quick.exchange(800, 8) == pytest.approx(7)
    assert quick.exchange(800, 16) == pytest.approx(7 + 100 / 2 / 10)


@pytest.mark.parametrize("group", [1, 8, 64])
def test_exchanges_cost_and_parts_save(group):
    net = scaling.network(NAME)
    alone = scaling.step_seconds(net, MACHINE, 64, 1, 32, 1)
    seconds = [scaling.step_seconds(net, MACHINE, 64, count, 32, group) for count in (64, 512)]
    assert alone < seconds[0] < seconds[1]
    slow = scaling.Machine(989e12, 0.4, 0.025, 8, 360e9, 1e9, 1e-5, 0.9)
    assert scaling.step_seconds(net, slow, 64, 512, 32, group) > 1.2 * alone
    held = scaling.held_bytes(net, 64, group, 32)
    assert 20 * net.parameters / group <= held < 20 * net.parameters * (1 / group + 0.05)
