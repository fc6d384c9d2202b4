"""CUDA graphs of a network's calls without gradients: recorded once for each kind of input, and replayed."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

MOST_IMAGES = 128
"""Images of a call above which the GPU takes longer for it than the host to start its kernels."""


@contextmanager
def recorded(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Record the calls of these networks on CUDA in this context and replay them, where no gradient is wanted.

    Only those whose class says so by `recordable`, for itself and not for classes derived from it: their calls start
    the same kernels each time and ask the device for nothing. Their weights must stay where they are in memory; their
    values may change. Networks that are already compiled, or recorded in a context around this one, are left as they
    are. Results are those of an ordinary call.
    """
    mine = [one for one in networks if vars(type(one)).get("recordable", False) and one._compiled_call_impl is None]
    for one in mine:
        one._compiled_call_impl = Recordings(one)  # what nn.Module.compile sets; not part of copies and pickles
    try:
        yield
    finally:
        for one in mine:
            one._compiled_call_impl = None


class Recordings:
    """A network's call, with the graphs that have been recorded of it."""

    def __init__(self, network: nn.Module):
        self.network = network
        self.seen: dict[tuple, Recording | None] = {}
        self.lock = threading.Lock()  # threads may share a network, but a recording has one set of inputs

    def __call__(self, *inputs) -> Any:
        tensors, structure = pytree.tree_flatten(inputs)
        if self.network.training or not recordable(tensors):
            return self.network._call_impl(*inputs)
        kind = structure, *((one.shape, one.stride(), one.dtype, one.device) for one in tensors)
        with self.lock:
            if kind not in self.seen:  # the first call chooses algorithms and compiles kernels, which a graph cannot
                self.seen[kind] = None
                return self.network._call_impl(*inputs)
            recording = self.seen[kind] or Recording(self.network, inputs)
            self.seen[kind] = recording
            return recording.replay(tensors)


class Recording:
    """A call recorded on copies of its inputs."""

    def __init__(self, network: nn.Module, inputs: tuple):
        self.graph, copies = torch.cuda.CUDAGraph(), pytree.tree_map(torch.clone, inputs)
        self.inputs = pytree.tree_leaves(copies)
        # Other threads, which load data, may go on using CUDA meanwhile.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.result = network._call_impl(*copies)

    def replay(self, tensors: Sequence[Tensor]) -> Any:
        torch._foreach_copy_(self.inputs, list(tensors))
        self.graph.replay()
        return pytree.tree_map(torch.clone, self.result)


def recordable(inputs: Sequence) -> bool:
    """Return whether a call is one of few images on CUDA, without gradients or transforms of functions."""
    tensors = all(isinstance(one, Tensor) and one.is_cuda for one in inputs)
    plain = not torch.is_grad_enabled() and not torch._C._are_functorch_transforms_active()
    return tensors and plain and 0 < max(len(one) for one in inputs if one.ndim) <= MOST_IMAGES
