"""CUDA graphs of a network's calls: recorded once for each kind of call, and replayed by the host as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

MOST_IMAGES = 256
"""Images of a call above which the GPU takes longer for it than the host to start its kernels."""

MOST_KINDS = 8
"""Kinds of calls whose graphs, and the memory of their activations, are kept."""


@contextmanager
def recorded(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Record the calls of these networks on CUDA in this context, and replay them.

    Kinds of calls differ in the inputs' shapes, in the mode, in whether gradients are wanted, and in where the weights
    lie in memory. Networks that are compiled, or recorded by a context around this one, are left as they are. Results
    and gradients are those of ordinary calls; a backward pass cannot be differentiated itself.
    """
    mine = [one for one in networks if one._compiled_call_impl is None]
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
        self.seen: dict[tuple, Recording | Warmth] = {}
        self.places = [(where, name) for one in network.modules() for where in (one._parameters, one._buffers)
                       for name, tensor in where.items() if tensor is not None]  # fmt: skip

    def __call__(self, *inputs) -> Any:
        tensors, structure = pytree.tree_flatten(inputs)
        if not recordable(tensors):
            return self.network._call_impl(*inputs)
        weights = [where[name] for where, name in self.places]
        shapes = *((one.shape, one.stride(), one.dtype) for one in tensors), *(one.data_ptr() for one in weights)
        kind = structure, shapes, self.network.training, torch.is_grad_enabled()
        known = self.seen.get(kind)
        if known is None:  # the first call chooses algorithms and compiles kernels, which a graph cannot
            if len(self.seen) == MOST_KINDS:
                del self.seen[next(iter(self.seen))]
            known = self.seen[kind] = Warmth()
        if isinstance(known, Warmth):
            if not known.enough():
                return known.watched(self.network._call_impl(*inputs))
            known = self.seen[kind] = self._recorded(inputs, weights) or known
        if isinstance(known, Warmth) or known.flight is not None:
            return self.network._call_impl(*inputs)
        return known(tensors, weights)

    def _recorded(self, inputs: tuple, weights: list[Tensor]) -> Recording | None:
        """Return a new recording, or None if the network does what a graph cannot hold, or there is no memory."""
        try:
            return Recording(self.network, inputs, weights)
        except RuntimeError:
            return None


class Warmth:
    """Whether a kind of call, and its backward pass if it has one, has been made the ordinary way."""

    def __init__(self):
        self.calls = self.backwards = self.asked = 0

    def watched(self, result: Any) -> Any:
        self.calls += 1
        if isinstance(result, Tensor) and result.requires_grad:
            result.register_hook(self._note)
        else:
            self.backwards += 1
        return result

    def _note(self, gradient: Tensor) -> None:
        self.backwards += 1

    def enough(self) -> bool:
        """Return whether to record now; if that has been tried before, it has failed."""
        self.asked += self.backwards > 0
        return self.asked == 1


class Flight:
    """A forward pass whose activations are still wanted, until its backward pass or until it is forgotten."""

    def __init__(self, recording: Recording):
        self.recording, recording.flight = recording, id(self)

    def end(self) -> bool:
        """End it, and return whether its activations were still there."""
        there = self.recording.flight == id(self)
        if there:
            self.recording.flight = None
        return there

    __del__ = end


class Recording:
    """A call recorded on copies of its inputs, and its backward pass if gradients are wanted."""

    def __init__(self, network: nn.Module, inputs: tuple, weights: list[Tensor]):
        self.flight: int | None = None
        copies = pytree.tree_map(torch.clone, inputs)
        self.inputs = pytree.tree_leaves(copies)
        self.forward, self.backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # Other threads, which load data, may go on using CUDA meanwhile.
        with torch.cuda.graph(self.forward, capture_error_mode="thread_local"):
            result = network._call_impl(*copies)
        self.used: list[int] = []
        if torch.is_grad_enabled() and isinstance(result, Tensor) and result.requires_grad:
            trained = [index for index, one in enumerate(weights) if one.requires_grad]
            self.given = torch.empty_like(result)
            pool = self.forward.pool()
            with torch.cuda.graph(self.backward, pool=pool, capture_error_mode="thread_local"):
                wanted = [weights[index] for index in trained]
                found = torch.autograd.grad(result, wanted, self.given, allow_unused=True)
            self.used = [index for index, one in zip(trained, found, strict=True) if one is not None]
            self.found = [one for one in found if one is not None]
        self.result = pytree.tree_map(torch.Tensor.detach, result)

    def __call__(self, tensors: Sequence[Tensor], weights: Sequence[Tensor]) -> Any:
        if not self.used:
            return self.replay(tensors)
        return Replayed.apply(self, tensors, *(weights[index] for index in self.used))

    def replay(self, tensors: Sequence[Tensor]) -> Any:
        torch._foreach_copy_(self.inputs, list(tensors))
        self.forward.replay()
        return pytree.tree_map(torch.clone, self.result)


class Replayed(torch.autograd.Function):
    """A recorded call with gradients, as a function of the weights that it uses."""

    @staticmethod
    def forward(ctx, recording: Recording, tensors: Sequence[Tensor], *weights: Tensor) -> Tensor:
        ctx.flight = Flight(recording)
        return recording.replay(tensors)

    @staticmethod
    def backward(ctx, given: Tensor):
        if torch.is_grad_enabled():
            raise RuntimeError("a recorded network has no second derivatives; set loop.cuda_graphs=0")
        recording = ctx.flight.recording
        if not ctx.flight.end():
            raise RuntimeError("a recorded network has one backward pass for each call; set loop.cuda_graphs=0")
        recording.given.copy_(given)
        recording.backward.replay()
        gradients = [torch.empty_like(one) for one in recording.found]
        torch._foreach_copy_(gradients, recording.found)
        return None, None, *gradients


def recordable(inputs: Sequence) -> bool:
    """Return whether a call is one of few images on CUDA, whose inputs need no gradients, and not a transform's."""
    plain = all(isinstance(one, Tensor) and one.is_cuda and not one.requires_grad for one in inputs)
    outside = torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling()
    return plain and not outside and 0 < max(len(one) for one in inputs if one.ndim) <= MOST_IMAGES
