"""Distributed helpers that also work in a single process without a process group."""

import os
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from elucid.dnnlib.errors import UserError, clean_lines
from elucid.torch_utils.torchrun.meeting import meet

STORE_SECONDS = 30.0
"""How long to try to reach torchrun, which is there before its processes; torch itself would try for an hour."""

TIMEOUT = timedelta(minutes=60)
"""Time after which a process that waits for the others in a collective gives up; `wait_for_all` never does."""

POLL, SAY_AFTER = 0.05, 5.0
"""Seconds between two looks at whether the others are there, and after which a line says what is waited for."""


def choose_device(name: str | None = None) -> torch.device:
    """Return the named device, or else CUDA if available, or the CPU; for CUDA, the GPU of the local rank."""
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"`device`={name} is not a device; use cpu, cuda or cuda:0") from error
    if device.type not in ("cpu", "cuda") and not (device.type == "mps" and torch.backends.mps.is_available()):
        raise UserError(f"`device`={name}: this device is not available; use cpu, cuda or cuda:0")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"`device`={name}: no CUDA device is visible; use `device`=cpu")
        visible = torch.cuda.device_count()
        if device.index is None and local_rank() >= visible:
            raise UserError(
                f"no GPU is left for process {local_rank()} of this machine, which has {visible}: start at most as "
                "many processes (torchrun --nproc_per_node), or use `device`=cpu"
            )
        device = torch.device("cuda", local_rank() if device.index is None else device.index)
        if device.index >= visible:
            raise UserError(f"`device`={device}: only {visible} CUDA devices are visible; use cuda:{visible - 1}")
        torch.cuda.set_device(device)
    return device


def init(device: torch.device) -> None:
    """Join torchrun's process group; does nothing for a single process."""
    if world_size() == 1 or dist.is_initialized():
        return
    # CPU tensors use gloo even with CUDA, so that control messages need no device synchronisation.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    options: dict[str, Any] = {"timeout": TIMEOUT}
    global _session, _patient
    store = agent_store(seconds=STORE_SECONDS)
    if store is None and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise UserError(
            f"torchrun cannot be reached at {where}: it has ended, or the network is closed; start it again"
        )
    if store is not None and restarts_allowed():
        _session = meet(store, rank(), world_size())
        options |= {"store": dist.PrefixStore(_session, store), "rank": rank(), "world_size": world_size()}
    dist.init_process_group(backend, **options)
    _patient = dist.new_group(backend="gloo", timeout=timedelta(days=365))  # made here, as all must make it together
    _session = _session or broadcast_object(secrets.token_hex(8))


_session = ""
_patient: dist.ProcessGroup | None = None


def session() -> str:
    """Return a name of this process group, which differs after torchrun has restarted its processes; "" for one."""
    return _session


def restarts_allowed() -> bool:
    """Return whether torchrun replaces processes of this job that fail (--max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0


def agent_store(alone: bool = False, seconds: float = 5) -> dist.TCPStore | None:
    """Return torchrun's store; None if it cannot be reached, and for a single process unless `alone` is set."""
    if (world_size() == 1 and not alone) or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        return dist.TCPStore(*place, is_master=False, timeout=timedelta(seconds=seconds), wait_for_workers=False)
    except (RuntimeError, OSError):
        return None


def lost_peer(error: RuntimeError) -> bool:
    """Return whether an error of torch means that another process has ended."""
    return any(word in str(error) for word in ("Connection reset by peer", "Connection closed by peer", "Broken pipe"))


def shutdown() -> None:
    """Leave the process group, if any. Do not call it after an error, when other processes may never get here."""
    if dist.is_initialized() and sys.exc_info()[0] is None:
        global _patient
        dist.destroy_process_group()
        _patient = None


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def is_main() -> bool:
    """Return True on the process that prints and writes files."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        any_rank(False)


def wait_for_all(what: str) -> None:
    """Wait for all processes for as long as they live, e.g. for one that decodes a dataset; `what` says it in a line.

    Raises RuntimeError, like a collective, once a process has ended (`lost_peer`).
    """
    if _patient is None:  # one process, or a group that others have made
        barrier()
        return
    work = dist.all_reduce(torch.zeros(1), group=_patient, async_op=True)
    began, said = time.monotonic(), rank() > 1  # the first two say it, as one of them may be the one that works
    while not work.is_completed():  # not `wait`, in which a signal would not be noticed
        if not said and time.monotonic() - began > SAY_AFTER:
            said = True
            print(f"process {rank()} waits until {what}", file=sys.stderr, flush=True)
        time.sleep(POLL)
    work.wait()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Sum a tensor over processes in place, and return it."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def any_rank(flag: bool) -> bool:
    """Return on all processes whether the flag is true on any."""
    return any_rank_later(flag)()


def any_rank_later(flag: bool) -> Callable[[], bool]:
    """Ask whether the flag is true on any process; the function returned waits for the answer."""
    if not dist.is_initialized():
        return lambda: flag
    value = torch.tensor(int(flag))
    work = dist.all_reduce(value, op=dist.ReduceOp.MAX, async_op=True)

    def answer() -> bool:
        work.wait()
        return bool(value.item())

    return answer


def broadcast_object(value, source: int = 0):
    """Return the value of process `source` (any picklable object) on all processes."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=source, device=torch.device("cpu"))
    return box[0]


def gather_objects(value) -> list:
    """Return the values of all processes in order of rank, on all processes."""
    if not dist.is_initialized():
        return [value]
    values: list = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather_to_main(value) -> list | None:
    """Return the values of all processes in order of rank on the main process, and None on the others."""
    if not dist.is_initialized():
        return [value]
    values: list | None = [None] * world_size() if is_main() else None
    dist.gather_object(value, values)
    return values


def gather_tensors(tensor: Tensor) -> Tensor:
    """Return the tensors of all processes, of equal shape, concatenated in order of rank."""
    if not dist.is_initialized():
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def rank_share(items: Sequence, batch_size: int) -> Iterable[Sequence]:
    """Return this process's batches of a list, which is split into batches that are assigned round-robin."""
    starts = range(rank() * batch_size, len(items), batch_size * world_size())
    return [items[start : start + batch_size] for start in starts]


def print0(*values, **options) -> None:
    """Print and flush on the main process only; what names of files put into texts is made harmless."""
    if is_main():
        values = tuple(clean_lines(value) if isinstance(value, str) else value for value in values)
        print(*values, **{"flush": True, "file": sys.stdout, **options})
