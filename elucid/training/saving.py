"""Saves states and snapshots in the background: training waits only for a copy in the memory of the host."""

import copy
import errno
import math
import os
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.torch_utils import distributed
from elucid.torch_utils.checkpoint import load_state, newest_state, save_state, states_in
from elucid.torch_utils.sharding.states import remove_folder, save_parts
from elucid.training.snapshots.snapshot import Snapshot, save_snapshot

STATE, PARTS, SNAPSHOT = "training-state-{}.pt", "training-state-{}.parts", "network-snapshot-{}.pkl"

MILESTONES = "milestones.txt"
"""File of a run folder that names files, one a line, which are never removed; hooks and users may add to it."""

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

FIRST_GUESS = 100e6
"""Bytes per second at which a state is taken to be written before one has been."""


class StateFiles:
    """Where states go: `write` of whole states on the main process, `newest` and `read` on all together.

    A sharded run writes its states on all processes together, into a folder each (torch.distributed.checkpoint).
    """

    def __init__(self, folder: Path, shards: bool = False):
        self.folder, self.shards = folder, shards
        # The words of a state that is written in the background must not meet those of training.
        self.group = dist.new_group(backend="gloo") if shards else None

    def path(self, label: str) -> Path:
        return self.folder / (PARTS if self.shards else STATE).format(label)

    def write(self, path: Path, state: dict) -> None:
        if self.shards:
            save_parts(path, state, save_state, self.group)
        else:
            save_state(path, state)

    def newest(self) -> tuple[Path, dict] | None:
        """Return path and content of the newest state that is whole."""
        return newest_state(self.folder)

    def read(self, path: Path) -> dict:
        return load_state(path)


class Saver:
    """Writes the states and snapshots of a run, one at a time, and removes old ones.

    `keep_states`, `keep_snapshots`: how many of the newest to keep, None for all. Never removed are milestones: the
    first of each `milestone_kimg`, and those named in `milestones.txt`. On a full disk, `on_full_disk` = "stop" ends
    the run with an error, and "continue" goes on training; the files that are there stay. As a context it waits at its
    end for what is being written, but not after a second signal.
    """

    def __init__(self, folder: Path, options, log: Callable[[str], None], stop, shards: bool = False):
        self.folder, self.options, self.log, self.stop = folder, options, log, stop
        self.files = StateFiles(folder, shards)
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="saving")
        self.pending: dict[str, tuple[Path, Future]] = {}
        self.seconds = {"state": 0.0, "snapshot": 0.0}

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind, error, trace) -> None:
        self.pool.shutdown(wait=kind is None or not issubclass(kind, KeyboardInterrupt), cancel_futures=False)

    def expect(self, run) -> None:
        """Look for room for a first state and snapshot before training, taking the optimizers for Adam."""
        weights, averages = size_of(run.objective.state_dict()), size_of(run.ema.state_dict())
        self._has_room("state", self.files.path(run.kimg_label), 3 * weights + 2 * averages)

    def state(self, run) -> Path:
        """Save `training-state-NNNNNN.pt` or `.parts` (NNNNNN = kimg). All processes must call it together."""
        path, began = self.files.path(run.kimg_label), time.monotonic()
        state = run.state_dict()
        self._save("state", path, began, state, on_host, self.files.write)
        return path

    def snapshot(self, run) -> Path:
        """Save `network-snapshot-NNNNNN.pkl`. All processes must call it together."""
        path, began = self.folder / SNAPSHOT.format(run.kimg_label), time.monotonic()
        write = partial(save_snapshot, half=self.options.snapshot_precision == "fp16")
        self._save("snapshot", path, began, run.snapshot(), nothing if self.files.shards else frozen, write)
        return path

    def _save(self, kind: str, path: Path, began: float, content, copied: Callable, write: Callable) -> None:
        if not self._takes_part(kind):
            return
        self._finish(kind)
        if not self._has_room(kind, path, size_of(content)):
            return
        host = copied(content)
        self._reserve(kind, time.monotonic() - began + size_of(content) / FIRST_GUESS)

        def work() -> None:
            write(path, host)
            self._reserve(kind, time.monotonic() - began)
            if distributed.is_main():
                self._remove_old(path, getattr(self.options, f"keep_{kind}s"))

        self.pending[kind] = path, self.pool.submit(work)

    def _takes_part(self, kind: str) -> bool:
        return distributed.is_main() or (kind == "state" and self.files.shards)

    def _has_room(self, kind: str, path: Path, size: int) -> bool:
        """Return whether a file of this size fits, on all processes that take part."""
        error = None
        if distributed.is_main():
            try:
                require_room(path, size)
            except UserError as found:
                error = found
        if kind == "state" and self.files.shards:
            error = distributed.broadcast_object(error and (str(error), error.__cause__.errno))
            error = error and _again(*error)
        if error is not None:
            self._failed(path, error)
        return error is None

    def _reserve(self, kind: str, seconds: float) -> None:
        """Note how long a save takes, for which a time limit leaves room."""
        self.seconds[kind] = seconds
        self.stop.reserve = 1 + 1.5 * sum(self.seconds.values())

    def check(self) -> None:
        """Report what went wrong in the background. Raises UserError if that ends the run."""
        for kind in [kind for kind, (_, job) in self.pending.items() if job.done()]:
            self._finish(kind)

    def wait(self) -> None:
        """Wait until all is written. All processes must call it together."""
        for kind in list(self.pending):
            self._finish(kind)
        distributed.barrier()

    def _finish(self, kind: str) -> None:
        path, job = self.pending.pop(kind, (None, None))
        if job is None:
            return
        try:
            job.result()
        except UserError as error:
            self._failed(path, error)

    def _failed(self, path: Path, error: UserError) -> None:
        """Go on without the file, or end the run. Raises UserError."""
        if not disk_is_full(error):
            raise error
        last = next(reversed(states_in(self.folder)), None)
        good = f"the last good state is {last}" if last else "there is no earlier state"
        if self.options.on_full_disk != "continue":
            raise UserError(f"{error}; {good}; free some room and go on with `resume`={self.folder}") from error
        self.log(f"warning: {error}; {good}; training goes on (`on_full_disk`=continue)")

    def _remove_old(self, path: Path, keep: int | None) -> None:
        if keep:
            for old in superseded(path, keep, self.options.milestone_kimg):
                if old.is_dir():
                    remove_folder(old)
                else:
                    old.unlink(missing_ok=True)


def superseded(path: Path, keep: int, milestone_kimg: float | None) -> list[Path]:
    """Return the files of the kind of `path`, no newer than it, that are not among the newest `keep` and no milestone.

    Files with a higher number, of a run that was resumed from an older state, are left alone.
    """
    kind = path.name.partition("-")[0]
    files = states_in(path.parent) if kind == "training" else sorted(path.parent.glob(f"{kind}-*.pkl"), key=label_of)
    files = [one for one in files if 0 <= label_of(one) <= label_of(path)]
    try:
        named = set((path.parent / MILESTONES).read_text(encoding="utf-8").split())
    except (OSError, ValueError):
        named = set()
    numbers = [math.floor(label_of(one) / milestone_kimg) if milestone_kimg else 0 for one in files]
    first = {one.name for one, number, before in zip(files, numbers, [0, *numbers], strict=False) if number > before}
    return [one for one in files[:-keep] if one.name not in named | first]


def label_of(path: Path) -> float:
    """Return the number in the name of a state or snapshot; -1 if there is none."""
    found = re.fullmatch(r"[a-z-]+-(\d+(?:\.\d+)?)\.\w+", path.name)
    return float(found[1]) if found else -1.0


def require_room(path: Path, size: int) -> None:
    """Raise UserError if the disk has not `size` bytes left, which must not be found out halfway."""
    try:
        free = shutil.disk_usage(path.parent).free
    except OSError:
        return
    if free < size * 1.02 + 2**16:
        cause = OSError(errno.ENOSPC, "No space left on device")
        raise UserError(
            f"{path} cannot be written: it needs {size / 1e6:.1f} MB, the disk has {free / 1e6:.1f} MB left"
        ) from cause


def _again(message: str, code: int) -> UserError:
    """Return an error of the disk that another process has found."""
    error = UserError(message)
    error.__cause__ = OSError(code, os.strerror(code))
    return error


def disk_is_full(error: BaseException) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) and cause.errno in FULL


def on_host(value, copies: dict[int, Tensor] | None = None):
    """Copy the tensors in nested containers to the memory of the host; those that are one tensor stay one."""
    copies = {} if copies is None else copies
    if isinstance(value, Tensor):
        if id(value) not in copies:
            copies[id(value)] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return copies[id(value)]
    if isinstance(value, dict):
        return {key: on_host(one, copies) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(on_host(one, copies) for one in value)
    return value


def nothing(content):
    """Copy nothing, for what is a copy."""
    return content


def frozen(snapshot: Snapshot) -> Snapshot:
    """Copy a snapshot to the memory of the host, where training does not change it."""
    return Snapshot(**{**vars(snapshot), "emas": {name: module_on_host(one) for name, one in snapshot.emas.items()}})


def module_on_host(module: nn.Module) -> nn.Module:
    """Copy a module to the memory of the host without a second copy on its device."""
    known: dict[int, object] = {}
    for one in [*module.parameters(), *module.buffers()]:
        tensor = one.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        known[id(one)] = nn.Parameter(tensor, one.requires_grad) if isinstance(one, nn.Parameter) else tensor
    return copy.deepcopy(module, known)


def size_of(content) -> int:
    """Return the bytes of all tensors in a state or snapshot."""
    if isinstance(content, Snapshot):
        parts = [list(one.state_dict().values()) for one in content.emas.values()]
        return size_of(parts)
    if isinstance(content, Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, dict):
        return sum(map(size_of, content.values()))
    return sum(map(size_of, content)) if isinstance(content, (list, tuple)) else 0
