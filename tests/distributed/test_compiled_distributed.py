"""Compilation under DistributedDataParallel."""

import pytest
import torch

from tests import scripts


def found(tmp_path, network, *how):
    scripts.run("tests/distributed/compiled_worker.py", tmp_path / "found.pt", network, *how, processes=2)
    return torch.load(tmp_path / "found.pt", weights_only=True)


@pytest.mark.parametrize(("network", "kinds"), [("ddpmpp", 3), ("jit", 2)])
def test_buckets_do_not_split_graphs(tmp_path, network, kinds):
    """One graph for each kind of blocks, on both processes, and the gradients of uncompiled blocks.

    A transformer's blocks are of one kind without and one with tokens of the label.
    """
    for graphs, said, (plain, compiled) in found(tmp_path, network):
        assert (graphs, said) == (kinds, [])
        assert all(torch.allclose(compiled[name], one, atol=1e-6) for name, one in plain.items())


def test_where_one_process_cannot_compile_none_does(tmp_path):
    for graphs, said, (plain, compiled) in found(tmp_path, "ddpmpp", "fail"):
        assert graphs == 0 and len(said) == 1 and "no such compiler, on process 1" in said[0]
        assert all(torch.equal(compiled[name], one) for name, one in plain.items())
