"""Unpickles tensors and layers without running code."""

import io
import math
import pickle
import re
import warnings

import torch
from torch import Tensor

from elucid.dnnlib.unpickle import Constant, Refused, recorder


def storage(data: bytes) -> Tensor:
    """Load a storage in torch's legacy format as a flat tensor, with torch's safe loader."""
    if data[:2] == b"PK":  # which may be compressed
        raise ValueError("a storage in a zip")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickles; what cannot be read is an error
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise Refused(name[1]) if name else ValueError(f"a storage that torch cannot read: {error}") from error
    except (EOFError, AttributeError, AssertionError) as error:
        raise ValueError(f"a storage that torch cannot read: {error}") from error
    if not isinstance(loaded, torch.storage.TypedStorage):
        raise ValueError("a storage that holds something else")
    return torch.empty(0, dtype=loaded.dtype).set_(loaded)


def tensor(flat: Tensor, offset: int, size: tuple, stride: tuple, *_) -> Tensor:
    """Return a view of a storage. Raises ValueError if it exceeds the storage."""
    if not isinstance(flat, Tensor):
        raise ValueError("a tensor without a storage")
    if math.prod(size) > flat.numel():
        raise ValueError(f"a tensor of {math.prod(size)} numbers in a storage of {flat.numel()}")
    return flat.as_strided(size, stride, offset)


def parameter(data: Tensor, *_) -> Tensor:
    return data


TENSORS = {
    "torch._utils._rebuild_tensor_v2": tensor,
    "torch._utils._rebuild_parameter": parameter,
    "torch.storage._load_from_bytes": storage,
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch.device": lambda *place: ":".join(map(str, place)),
    **{
        f"torch.{name}": Constant(getattr(torch, name))
        for name in "float16 bfloat16 float32 float64 uint8 int8 int16 int32 int64 bool".split()
    },
}
LAYERS = {
    f"torch.nn.modules.{name}": recorder(f"torch.nn.modules.{name}")
    for name in (
        *(f"container.{kind}" for kind in ("Sequential", "ModuleList", "ModuleDict", "ParameterList", "ParameterDict")),
        *(f"activation.{kind}" for kind in ("SiLU", "ReLU", "LeakyReLU", "GELU", "ELU", "Sigmoid", "Tanh", "Softplus")),
        *("linear.Identity", "dropout.Dropout"),
    )
}
