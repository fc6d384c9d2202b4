"""Working weights: copies of a network's float32 weights in the type it computes in, made once for many passes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from elucid.torch_utils.compilation import uncompiled
from elucid.torch_utils.rng import random_state_kept

ALIGNMENT = 64
"""Elements at whose multiples copies begin, since kernels for matrices read aligned memory faster."""

GROUP_BYTES = 25 * 2**20
"""Gradients are converted in groups of about this size, a bucket of DistributedDataParallel, so that a bucket is
reduced while the backward pass computes the next."""

LOCK = threading.RLock()
"""Held while weights are looked for and cast, as threads may share a network."""


class WorkingWeights:
    """Lets a network read copies of its weights in the type that it computes in, inside `working_weights`.

    A class of modules whose forward pass reads its parameters and buffers only as `weight.to(x.dtype)`, x being its
    first argument, says so by the attribute `casts_weights`, for itself and not for classes derived from it. Which of
    these see x in the reduced type is found in the first pass; all other modules keep their weights. Of a network that
    is compiled that is a pass of its own, as it runs uncompiled: the results are those of later passes. Values are
    those of the casts. The gradient of each pass is converted to the type of the weights and added there, so that sums
    over passes are in float32.
    """

    def __init__(self):
        self.users = 0
        self.copies: dict[torch.dtype, Copies] = {}

    def __reduce__(self):
        return WorkingWeights, ()  # a copy of the network has copies of its own weights

    def call(self, model: nn.Module, dtype: torch.dtype, *inputs) -> Any:
        """Return model(*inputs), with copies in `dtype` in the place of the weights if there are any."""
        # Transforms of functions (torch.func) and compilers from outside see the weights themselves.
        elsewhere = torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling()
        if not self.users or dtype is torch.float32 or elsewhere:
            return model(*inputs)
        with LOCK:
            copies = self.copies.get(dtype)
            if copies is None:
                again = any(getattr(one, "_compiled_call_impl", None) is not None for one in model.modules())
                with without_a_trace(model) if again else nullcontext(), observed(model) as seen:
                    out = model(*inputs)
                copies = Copies([one for one, types in seen.items() if types == {dtype}], dtype)
                self.copies[dtype] = copies
                if not again:
                    return out
            if not copies.replaced():
                copies.refresh()
        # Others in their place, as torch.func.functional_call puts them there, are the ones that are meant.
        with nullcontext() if copies.replaced() else copies.in_place():
            return model(*inputs)

    @contextmanager
    def in_use(self, keep: bool) -> Iterator[None]:
        with LOCK:
            if not self.users:
                self.copies = {dtype: one for dtype, one in self.copies.items() if not one.replaced()}
                for one in self.copies.values():
                    one.stale = True
            self.users += 1
        try:
            yield
        finally:
            with LOCK:
                self.users -= 1
                if not self.users and not keep:
                    for one in self.copies.values():
                        one.free()


@contextmanager
def working_weights(module: nn.Module, keep: bool = False) -> Iterator[None]:
    """Let all networks in `module` read working weights, which are cast once in this context, unless weights change.

    `keep` leaves their memory to the next context.
    """
    with ExitStack() as stack:
        for one in module.modules():
            own = getattr(one, "working", None)
            if isinstance(own, WorkingWeights):
                stack.enter_context(own.in_use(keep))
        yield


@contextmanager
def without_a_trace(model: nn.Module) -> Iterator[None]:
    """Context in which a pass changes neither buffers, as those of batch normalisation, nor random generators."""
    modes = [(one, one.training) for one in model.modules()]
    device = next(model.parameters()).device
    with random_state_kept(device), torch.no_grad():
        model.eval()
        try:
            yield
        finally:
            for one, training in modes:
                one.training = training


@contextmanager
def observed(model: nn.Module) -> Iterator[dict[nn.Module, set[torch.dtype]]]:
    """Collect the types in which modules with `casts_weights` get their first argument; compiled ones run eagerly."""
    seen: dict[nn.Module, set[torch.dtype]] = {}

    def look(module: nn.Module, inputs: tuple) -> None:
        seen.setdefault(module, set()).add(inputs[0].dtype)

    casting = [one for one in model.modules() if vars(type(one)).get("casts_weights", False)]
    handles = [one.register_forward_pre_hook(look) for one in casting]
    try:
        with uncompiled():
            yield seen
    finally:
        for handle in handles:
            handle.remove()


class Copies:
    """The copies of the weights and buffers of some modules in one type, in one flat buffer."""

    def __init__(self, modules: Sequence[nn.Module], dtype: torch.dtype):
        self.dtype, self.stale, self.version = dtype, True, -1
        self.places: list[tuple[dict[str, Tensor | None], str]] = []
        self.masters: list[Tensor] = []
        known: set[int] = set()
        for place in (place for module in modules for place in (module._parameters, module._buffers)):
            for name, master in place.items():
                if master is None or id(master) in known or not copied(master):
                    continue
                known.add(id(master))
                self.places.append((place, name))
                self.masters.append(master)
        self.groups = grouped(self.masters)
        self.views: list[Tensor] = []

    def replaced(self) -> bool:
        """Return whether other tensors are in the place of the weights, or the weights on another device."""
        if self.views and self.views[0].device != self.masters[0].device:
            return True
        own = zip(self.places, self.masters, self.views or self.masters, strict=True)
        return any(place.get(name) is not one and place.get(name) is not copy for (place, name), one, copy in own)

    def free(self) -> None:
        self.views = []

    @torch.inference_mode(False)
    def _allocated(self) -> list[Tensor]:
        starts, end = [], 0
        for master in self.masters:
            starts.append(end)
            end += -(-master.numel() // ALIGNMENT) * ALIGNMENT
        flat = torch.empty(end, dtype=self.dtype, device=self.masters[0].device)
        pairs = zip(self.masters, starts, strict=True)
        return [flat.as_strided(master.shape, master.stride(), start) for master, start in pairs]

    @torch.no_grad()
    def refresh(self) -> None:
        """Cast the weights if they may have changed."""
        version = sum(master._version for master in self.masters)
        if self.masters and (self.stale or version != self.version):
            self.views = self.views or self._allocated()
            torch._foreach_copy_(self.views, self.masters)
            self.stale, self.version = False, version

    def tensors(self) -> list[Tensor]:
        """Return the copies, through which a gradient reaches the weights that require one."""
        if not torch.is_grad_enabled():
            return self.views
        tensors = list(self.views)
        for group in self.groups:
            trained = [index for index in group if self.masters[index].requires_grad]
            if trained:
                views = [self.views[index] for index in trained]
                made = CastWeights.apply(views, *(self.masters[index] for index in trained))
                for index, tensor in zip(trained, made, strict=True):
                    tensors[index] = tensor
        return tensors

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the copies in the place of the weights."""
        for (place, name), tensor in zip(self.places, self.tensors(), strict=True):
            place[name] = tensor
        try:
            yield
        finally:
            # Another thread may still read them: weights themselves are as good, but are cast at each use.
            for (place, name), master in zip(self.places, self.masters, strict=True):
                place[name] = master


def copied(master: Tensor) -> bool:
    """Return whether a weight is one to copy: float32, without holes, and not sharded among processes."""
    dense = master.is_contiguous() or (master.ndim == 4 and master.is_contiguous(memory_format=torch.channels_last))
    return master.dtype == torch.float32 and dense and not hasattr(master, "full_tensor") and not master.is_inference()


def grouped(masters: Sequence[Tensor]) -> list[list[int]]:
    """Return the indices of the weights in groups of about GROUP_BYTES, in order."""
    groups: list[list[int]] = []
    size = GROUP_BYTES
    for index, master in enumerate(masters):
        if size >= GROUP_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(index)
        size += master.numel() * 4
    return groups


class CastWeights(torch.autograd.Function):
    """Copies that are already cast, as a function of the weights."""

    @staticmethod
    def forward(ctx, copies: list[Tensor], *masters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.masters = masters
        return tuple(copy.detach() for copy in copies)

    @staticmethod
    def backward(ctx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        pairs = zip(ctx.masters, grads, strict=True)
        if torch.is_grad_enabled():  # the gradient will be differentiated itself
            return None, *(None if grad is None else grad.to(master.dtype) for master, grad in pairs)
        wanted = [None if grad is None else torch.empty_like(master) for master, grad in pairs]
        given = [(new, grad) for new, grad in zip(wanted, grads, strict=True) if new is not None]
        if given:
            torch._foreach_copy_([new for new, _ in given], [grad for _, grad in given])
        return None, *wanted
