"""A simulated accelerator, the device `sim`: it computes on the CPU, and counts what would cost time on a GPU.

It refuses operations between tensors of two devices, as CUDA does, and counts kernel launches, copies from and to the
host, and the waits of the host for the device. It shows neither streams that race nor memory formats. A process that
has called `register` keeps the device to its end, so tests use it in processes of their own (`workers.py`).
"""

import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.utils import _pytree as pytree
from torch.utils import backend_registration
from torch.utils._python_dispatch import return_and_correct_aliasing

ROOT = Path(__file__).resolve().parents[2]

READS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "_unique2", "unique_dim", "bincount"}
"""Operations whose result, or its shape, the host must know before it goes on."""

VIEWS = {
    *("view", "_unsafe_view", "expand", "permute", "transpose", "t", "unsqueeze", "squeeze", "slice", "select"),
    *("split", "split_with_sizes", "unbind", "detach", "alias", "as_strided", "diagonal", "_reshape_alias", "unfold"),
    "lift_fresh",
    "empty_like",
    "new_empty",
    "new_empty_strided",
}
"""Operations that compute nothing."""

FACTORIES = (
    *("empty.memory_format", "empty_strided", "arange.start_step", "eye", "eye.m", "linspace", "scalar_tensor"),
    *("randperm", "randperm.generator", "_efficientzerotensor"),
)


@dataclass
class Counts:
    """Launches, copies and waits, and the lines of the program that waited, by kind and place."""

    launches: int = 0
    to_device: int = 0
    to_host: int = 0
    waits: Counter = field(default_factory=Counter)

    def wait(self, kind: str) -> None:
        self.waits[f"{kind} at {caller()}"] += 1

    def as_dict(self) -> dict:
        return {**vars(self), "waits": dict(self.waits)}


_counts = Counts()


@contextmanager
def counting() -> Iterator[Counts]:
    """Count what happens on the simulated device in this context."""
    global _counts
    before, _counts = _counts, Counts()
    try:
        yield _counts
    finally:
        _counts = before


def caller() -> str:
    """Return the innermost line of the program on the stack, else of its tests."""
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_stack() if frame.filename != __file__]
    own = [one for one in places if str(ROOT / "elucid") in one[0]] or [one for one in places if str(ROOT) in one[0]]
    return f"{Path(own[-1][0]).relative_to(ROOT)}:{own[-1][1]}" if own else "?"


class Simulated(torch.Tensor):
    """A tensor on `sim`, whose values are those of the CPU tensor `host`."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            host.size(),
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=torch.device("sim", 0),
        )

    def __init__(self, host: torch.Tensor):
        self.host = host

    def tolist(self):
        _counts.wait("tolist")
        return self.host.tolist()

    def __repr__(self):
        return f"Simulated({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        if name == "_to_copy":
            return _converted(func, args, kwargs)
        if name == "copy_":
            target, source, non_blocking = args[0], args[1], kwargs.get("non_blocking", len(args) > 2 and args[2])
            if not isinstance(target, Simulated):
                _counts.to_host += 1
                if not non_blocking:
                    _counts.wait("copy to the host")
                return target.copy_(source.host)
            if not isinstance(source, Simulated):
                _count_upload(non_blocking)
                _counts.launches -= 1
        elif name == "index" and isinstance(args[0], Simulated):
            args = args[0], [_as_index(one) for one in args[1]]
        elif name in ("index_put", "index_put_", "_index_put_impl_"):
            args = args[0], [_as_index(one) for one in args[1]], *args[2:]
        elif name != "set_":
            _require_one_device(func, args, kwargs)
        if name in READS:
            _counts.wait(name)
        _counts.launches += name not in VIEWS
        if "device" in kwargs:
            kwargs["device"] = torch.device("cpu")
        kwargs.pop("pin_memory", None)
        out = func(*pytree.tree_map(_host_of, args), **pytree.tree_map(_host_of, kwargs))
        if name == "_local_scalar_dense":
            return out
        kind = args[0] if name in VIEWS and isinstance(args[0], Simulated) else None
        # A view has its base's versions, which tensors of inference do not have.
        with torch.inference_mode(torch.is_inference_mode_enabled() if kind is None else kind.is_inference()):
            out = pytree.tree_map(lambda one: Simulated(one) if isinstance(one, torch.Tensor) else one, out)
        return return_and_correct_aliasing(func, args, kwargs, out)


def _host_of(value):
    return value.host if isinstance(value, Simulated) else value


def _converted(func, args, kwargs):
    device, non_blocking = kwargs.pop("device", None), kwargs.pop("non_blocking", False)
    kwargs.pop("pin_memory", None)
    out = func(_host_of(args[0]), **kwargs)
    if device is None or device.type == "sim":
        _counts.launches += 1
        return Simulated(out)
    _counts.to_host += 1
    if not non_blocking:
        _counts.wait("copy to the host")
    return out


def _count_upload(non_blocking: bool) -> None:
    _counts.to_device += 1
    if not non_blocking:
        _counts.wait("copy to the device")


def _as_index(index):
    """Indices on the host are copied, and the number of trues of a mask is read, as on CUDA."""
    if isinstance(index, torch.Tensor) and not isinstance(index, Simulated):
        _count_upload(non_blocking=False)
    if isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8):
        _counts.wait("index by a mask")
    return index


def _require_one_device(func, args, kwargs) -> None:
    tensors = [one for one in pytree.tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    others = [tuple(one.shape) for one in tensors if not isinstance(one, Simulated) and one.ndim]
    if others:
        raise RuntimeError(f"{func}: expected all tensors on one device, found sim and cpu {others}")


class _Module(backend_registration._DummyBackendModule):
    """torch.sim; the random numbers of the device are those of the CPU's generator."""

    def get_rng_state(self, device=None):
        return torch.get_rng_state()

    def set_rng_state(self, state, device=None):
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]


class _Generator(torch.Generator):
    """A generator of the device is one of the CPU."""

    def __new__(cls, device="cpu"):
        device = torch.device(device)
        return super().__new__(cls, "cpu" if device.type == "sim" else device)


_library: torch.library.Library | None = None


def register() -> torch.device:
    """Make the device known to this process, and return it."""
    global _library
    if _library is not None:
        return torch.device("sim", 0)
    backend_registration._setup_privateuseone_for_python_backend("sim", backend_module=_Module())
    torch.Generator = _Generator
    _library = torch.library.Library("aten", "IMPL")
    for name in FACTORIES:
        packet, _, overload = name.partition(".")
        operation = getattr(getattr(torch.ops.aten, packet), overload or "default")
        _library.impl(name, _factory(operation), "PrivateUse1")
    _library.impl("_copy_from", _copy_from, "PrivateUse1")
    return torch.device("sim", 0)


def _factory(operation):
    def make(*args, **kwargs):
        _counts.launches += not operation._schema.name.startswith("aten::empty")
        kwargs.pop("pin_memory", None)
        return Simulated(operation(*args, **{**kwargs, "device": torch.device("cpu")}))

    return make


def _copy_from(source, target, non_blocking=False):
    """What copies come to that Python does not see, such as that of torch.tensor([...], device="sim")."""
    if isinstance(source, Simulated):
        _counts.to_host += 1
        if not non_blocking:
            _counts.wait("copy to the host")
    else:
        _count_upload(non_blocking)
    _host_of(target).copy_(_host_of(source))
    return target
