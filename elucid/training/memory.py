"""How many images fit into memory at once: `--batch-gpu=auto`, and the advice when memory runs out."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError, ran_out_of_memory
from elucid.torch_utils import distributed
from elucid.torch_utils.rng import random_state_kept
from elucid.torch_utils.sharding.parts import parts
from elucid.training.checks import images_wanted, phases_wanted
from elucid.training.divergence import summed

MOMENTS = 2
"""Tensors of the size of the weights for which an optimizer that has not stepped yet needs room, as Adam does."""

SPARE = 0.9
"""Share of the free memory that may be filled."""

TRANSIENT = 1.25
"""On the CPU, which does not tell, memory that a pass needs over what it stores for the backward pass."""

STEPS = 32
"""Steps ahead of which the numbers of images that a loss wants are tried."""


def fit_batch(run) -> None:
    """Set the run's micro-batch to the largest that fits on all processes, and note it in the options.

    Sizes are the powers of two that divide the share of a process, and the share itself. Raises UserError if not even
    one image fits. All processes must call it together.
    """
    share = run.micro_batch_size * run.grad_accum_steps
    size = largest_that_fits(run, [one for one in sizes_of(share) if one % run.loss.batch_multiple == 0])
    if size is None:
        raise UserError(
            f"`batch_gpu`=auto: not even one image fits into the memory of {run.device}; {less_memory(run)}"
        )
    run.micro_batch_size, run.grad_accum_steps = size, share // size
    run.options["loop"]["batch_gpu"] = run.loop.batch_gpu = size


@contextmanager
def memory_explained(run) -> Iterator[None]:
    """Context of training in which running out of memory raises UserError with the largest `batch_gpu` that fits."""
    try:
        yield
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        reason = str(error).partition(". ")[0][:200]
        traceback.clear_frames(error.__traceback__)  # which hold what the step has computed
        raise UserError(f"out of memory: {reason}; {advice(run)}") from error


def advice(run) -> str:
    """Say which `batch_gpu` fits, after trying on this process alone."""
    smaller = [size for size in sizes_of(run.micro_batch_size) if size < run.micro_batch_size]
    if run.shards:  # whose processes cannot try alone
        return f"use a smaller `batch_gpu`, e.g. {smaller[-1]}" if smaller else less_memory(run)
    size = _largest(run, smaller, agreed=lambda fits: fits)
    if size is None:
        return f"not even one image fits; {less_memory(run)}"
    return f"the largest that fits is `batch_gpu`={size}"


def less_memory(run) -> str:
    """Say what else takes less memory."""
    known = {"`checkpointing`=1": run.loop.checkpointing, "`shard`=1 on several devices": run.loop.shard}
    left = [name for name, used in known.items() if not used]
    return f"use {' or '.join([*left, 'a smaller network'])}"


def sizes_of(share: int) -> list[int]:
    """Return the micro-batches to try for a process's share of a batch, the smallest first."""
    powers = [1 << power for power in range(share.bit_length()) if share % (1 << power) == 0]
    return sorted({*powers, share})


def largest_that_fits(run, sizes: list[int]) -> int | None:
    """Return the largest size that fits on all processes, None if none does. All must call it together."""
    return _largest(run, sizes, agreed=lambda fits: not distributed.any_rank(not fits))


def _largest(run, sizes: list[int], agreed) -> int | None:
    """Try sizes, the smallest first, until one does not fit or, from the two before it, is not expected to."""
    best, needs = None, {}
    room = free_memory(run.device)
    with random_state_kept(run.device), _undisturbed(run):
        moments = [] if run.device.type == "cpu" else _moments(run)
        for size in sizes:
            if not agreed(_expected(needs, size) <= SPARE * room):
                break
            try:
                needs[size] = _need(run, size)
            except Exception as error:
                if not ran_out_of_memory(error):
                    raise
                traceback.clear_frames(error.__traceback__)
                needs[size] = float("inf")
            if not agreed(needs[size] <= SPARE * room):
                break
            best = size
        del moments
    return best


def _expected(needs: dict[int, float], size: int) -> float:
    """Return the memory for a size, on the line through the last two that are known."""
    if len(needs) < 2:
        return 2 * max(needs.values(), default=0.0)
    (one, first), (two, second) = list(needs.items())[-2:]
    return second + (size - two) * max(second - first, 0) / (two - one)


def _need(run, size: int) -> float:
    """Return the most bytes that a pass adds to what is there, over all numbers of images the loss wants soon."""
    steps = {}
    for ahead in range(STEPS):
        step = run.step.replace(index=run.index + ahead, nimg=run.nimg + ahead * run.loop.batch_size)
        for phase in phases_wanted(run.loss, step):
            one = step.replace(phase=phase)
            steps[phase, images_wanted(run.loss, one)] = one
    return max(_pass(run, step, size * multiplier) for (_, multiplier), step in steps.items())


def _pass(run, step, count: int) -> float:
    """Compute loss and gradients of `count` images, and return the bytes that it took; nothing else changes."""
    optimizer, stored = run.optimizers[step.phase], _Stored()
    before = _allocated(run.device)
    try:
        with optimizer.only_trainable(run.objective):
            batch = run.stream.next(count)
            with torch.autograd.graph.saved_tensors_hooks(stored.note, lambda tensor: tensor):
                loss = summed(run.objective(batch, step).loss)
            if run.device.type != "cpu":  # for which what is stored tells enough
                loss.backward()
    finally:
        optimizer.zero_grad()
    if run.device.type == "cuda":
        return torch.cuda.max_memory_allocated(run.device) - before
    return TRANSIENT * stored.bytes


class _Stored:
    """Counts the bytes of what autograd keeps for the backward pass, without what is in memory anyway."""

    def __init__(self):
        self.seen: dict[int, int] = {}

    def note(self, tensor: Tensor) -> Tensor:
        if not (tensor.is_leaf and tensor.requires_grad):  # weights
            storage = tensor.untyped_storage()
            self.seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    @property
    def bytes(self) -> int:
        return sum(self.seen.values())


@contextmanager
def _undisturbed(run) -> Iterator[None]:
    """Context in which data and buffers may change, and are put back; the loss observes nothing."""
    position, buffers = run.stream.position, [(one, one.clone()) for one in run.objective.buffers()]
    trains = run.loss.training
    run.loss.eval()
    try:
        yield
    finally:
        run.loss.train(trains)
        run.stream.position = position
        for one, before in buffers:
            one.copy_(before)
        if run.device.type == "cuda":
            torch.cuda.empty_cache()


def _moments(run) -> list[Tensor]:
    """Take the memory that the state of optimizers will take which have not stepped yet."""
    fresh = [one for one in run.optimizers.values() if not one.optimizer.state]
    weights = [weight for one in fresh for weight in parts(p.detach() for _, p in one.named_parameters)]
    return [torch.empty_like(weight) for weight in weights for _ in range(MOMENTS)]


def _allocated(device: torch.device) -> int:
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def free_memory(device: torch.device) -> float:
    """Return the bytes that are free for this process: on the device, or its share of the host's."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, whole = torch.cuda.mem_get_info(device)
        allowed = getattr(torch.cuda.memory, "get_per_process_memory_fraction", lambda _: 1.0)(device) * whole
        return max(min(free, allowed - torch.cuda.memory_reserved(device)), 0)
    free = psutil.virtual_memory().available
    with suppress(OSError, ValueError):  # of a container
        group = Path("/sys/fs/cgroup")
        most, used = ((group / name).read_text() for name in ("memory.max", "memory.current"))
        free = min(free, int(most) - int(used))
    return max(free, 0) / int(os.environ.get("LOCAL_WORLD_SIZE", 1))
