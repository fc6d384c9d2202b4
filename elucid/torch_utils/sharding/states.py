"""Training states that all processes write together, a folder `training-state-NNNNNN.parts`, and any number reads.

It holds `state.pt`, a state whose large tensors are only named, and these in files of `storage`. Nothing in them is
executed when they are read.
"""

import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.torch_utils import distributed
from elucid.torch_utils.guards.finite import non_finite, require_finite
from elucid.torch_utils.sharding.parts import is_sharded, part, placed_like

STATE = "state.pt"
LARGE = ("objective", "ema", "optimizers")
"""Parts of a state whose tensors are written apart."""
NAMED, FOLDER = "tensor in parts", "folder of parts"
"""Keys that stand for a tensor by its name, and for the folder that it is in."""


def save_parts(path: Path, state: dict, save: Callable[[Path, dict], None], group: dist.ProcessGroup | None) -> None:
    """Write a state, of which each process has its parts, to a folder, atomically; `save` writes the rest of it.

    All processes must call it together; `group` is what they exchange words over, another than training's in a thread.
    What goes wrong on one raises UserError on all, as do values that are not finite, of which nothing is written.
    """
    from torch.distributed.checkpoint import CheckpointException
    from torch.distributed.checkpoint import save as save_distributed

    from elucid.torch_utils.sharding.storage import PartsWriter

    tensors: dict[str, Tensor] = {}
    rest = {name: _named(value, name, tensors) if name in LARGE else value for name, value in state.items()}
    temporary = path.with_name(f".{path.name}.tmp")

    def begin(main: bool) -> None:
        for name in non_finite({name: part(one) for name, one in tensors.items()}):
            raise UserError(f"{path} is not saved: {name} is not finite (NaN or infinity)")
        if main:
            remove_folder(temporary)
            temporary.mkdir()

    def end() -> None:
        save(temporary / STATE, rest)
        remove_folder(path)  # of a run that was resumed from an older state
        os.rename(temporary, path)

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is one process only
            save_distributed(tensors, storage_writer=PartsWriter(temporary, begin, end), process_group=group)
    except CheckpointException as error:
        if distributed.is_main():
            remove_folder(temporary)
        raise first_cause(error, f"{path} cannot be written") from first_os_error(error)


def load_parts(path: Path, load: Callable[[Path], dict]) -> dict:
    """Read a state without its large tensors, and check the files of these; each process checks a share of them.

    All processes must call it together. Raises UserError on all if a file is missing or damaged.
    """
    from elucid.torch_utils.sharding.storage import damaged, read_index, verify_parts

    error = None
    try:
        state = load(path / STATE)
        share = (distributed.rank(), distributed.world_size()) if dist.is_initialized() else (0, 1)
        verify_parts(path, read_index(path), *share)
    except UserError as found:
        error = found
    if distributed.any_rank(error is not None):
        raise error or damaged(path, "another process cannot read its share of the files")
    return {**state, FOLDER: str(path)}


def fitted(state: dict, like: dict[str, Tensor]) -> dict:
    """Return a state with all its tensors, read from its folder if it has one, sharded as the tensors `like` them.

    `like` has names such as `objective.denoiser.model.out_conv.weight` and, for all tensors of the shape of an
    optimizer's parameter 3, `optimizers.main.state.3`. Raises UserError if the files are damaged.
    """
    folder = state.get(FOLDER)
    if folder is None and not like:
        return state
    missing: dict[str, Tensor] = {}
    index: dict[str, Any] = {}
    if folder is not None:
        from elucid.torch_utils.sharding.storage import read_index

        index = read_index(Path(folder))
    found = {name: _fitted(state[name], name, like, index, missing) for name in LARGE if name in state}
    if missing:
        _read(Path(folder), index, missing)
    return {name: value for name, value in (state | found).items() if name != FOLDER}


def _read(folder: Path, index: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    from torch.distributed.checkpoint import CheckpointException, load

    from elucid.torch_utils.sharding.storage import PartsReader

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is one process only
            load(tensors, storage_reader=PartsReader(folder, index), no_dist=True)
        require_finite({name: part(one) for name, one in tensors.items()}, str(folder))
    except CheckpointException as error:
        raise first_cause(error, f"{folder} cannot be read") from first_os_error(error)


def _named(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Replace the tensors in nested containers by their names, and collect them."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {NAMED: name}
    if isinstance(value, dict):
        return {key: _named(one, f"{name}.{key}", tensors) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_named(one, f"{name}.{place}", tensors) for place, one in enumerate(value))
    return value


def _fitted(value: Any, name: str, like: dict[str, Tensor], index: dict, missing: dict[str, Tensor]) -> Any:
    """Place tensors as in `like`, and collect new ones, without numbers, for those that are only named."""
    if isinstance(value, dict) and NAMED in value:
        name = value[NAMED]
        if name not in index:
            raise UserError(f"the state lacks the tensor {name}; resume from an older one")
        model = _model(name, index[name].shape, like)
        empty = torch.empty(index[name].shape, dtype=index[name].dtype) if model is None else torch.empty_like(model)
        missing[name] = empty.detach()
        return missing[name]
    if isinstance(value, Tensor):
        model = _model(name, value.shape, like)
        return value if model is None else placed_like(value, model)
    if isinstance(value, dict):
        return {key: _fitted(one, f"{name}.{key}", like, index, missing) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_fitted(one, f"{name}.{place}", like, index, missing) for place, one in enumerate(value))
    return value


def _model(name: str, shape: Sequence[int], like: dict[str, Tensor]) -> Tensor | None:
    """Return the sharded tensor that this one is to be sharded as, if any."""
    model = like.get(name, like.get(name.rpartition(".")[0]))
    return model if model is not None and is_sharded(model) and tuple(model.shape) == tuple(shape) else None


def _causes(error: Any) -> Iterator[BaseException]:
    for one in error.failures.values():
        yield one[0] if isinstance(one, tuple) else one


def first_cause(error: Any, what: str) -> UserError:
    """Return what went wrong on one of the processes, of all that torch reports, as an error of the user."""
    cause = next(_causes(error))
    if isinstance(cause, UserError):
        return cause
    os_error = first_os_error(error)
    return UserError(f"{what}: {(os_error.strerror or os_error) if os_error else f'{type(cause).__name__}: {cause}'}")


def first_os_error(error: Any) -> OSError | None:
    return next((one for one in _causes(error) if isinstance(one, OSError)), None)


def remove_folder(path: Path) -> None:
    """Remove a folder of parts in two steps, so that nobody takes half of it for a state; it may be missing."""
    if path.is_dir():
        leftover = path if path.name.startswith(".") else path.with_name(f".{path.name}.old.tmp")
        if leftover != path:
            shutil.rmtree(leftover, ignore_errors=True)
            os.rename(path, leftover)
        shutil.rmtree(leftover, ignore_errors=True)
