"""Compilation under DistributedDataParallel."""

import torch

from tests import scripts


def found(tmp_path, *how):
    scripts.run("tests/distributed/compiled_worker.py", tmp_path / "found.pt", *how, processes=2)
    return torch.load(tmp_path / "found.pt", weights_only=True)


def test_buckets_do_not_split_graphs(tmp_path):
    """One graph for each of the three kinds of blocks, on both processes, and the gradients of uncompiled blocks."""
    for graphs, said, (plain, compiled) in found(tmp_path):
        assert (graphs, said) == (3, [])
        assert all(torch.allclose(compiled[name], one, atol=1e-6) for name, one in plain.items())


def test_where_one_process_cannot_compile_none_does(tmp_path):
    for graphs, said, (plain, compiled) in found(tmp_path, "fail"):
        assert graphs == 0 and len(said) == 1 and "no such compiler, on process 1" in said[0]
        assert all(torch.equal(compiled[name], one) for name, one in plain.items())
