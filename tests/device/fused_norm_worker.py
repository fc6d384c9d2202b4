"""A process in which Triton's kernels run on the CPU, by its interpreter: writes as JSON how far they are from torch.

Argument: file to write. TRITON_INTERPRET=1 must be in its environment, as triton looks at it when it is imported.
"""

import json
import sys
from pathlib import Path

import torch

from elucid.training.config.build import make_network
from elucid.training.networks.kernels import fused_norm
from elucid.training.types import NetSpec

KINDS = ("plain", "added", "modulated")
SHAPES = {
    "narrow groups": (2, 8, 2, 5, 5),
    "groups not a power of two": (2, 12, 4, 3, 7),
    "one group": (1, 6, 1, 2, 2),
    "tiles that do not end with the image": (1, 4, 2, 70, 66),
}
"""Batch, channels, groups, height, width."""

LAYOUTS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
NETWORKS = ("ddpmpp", "adm", "adm_unet")


def inputs(kind: str, shape, dtype=torch.float32, memory_format=torch.contiguous_format):
    torch.manual_seed(0)
    batch, channels, groups, height, width = shape
    x = (torch.randn(batch, channels, height, width) * 2 + 3).to(dtype).to(memory_format=memory_format)
    weight, bias = torch.randn(channels) + 1, torch.randn(channels)
    added, scale, shift = (torch.randn(batch, channels, 1, 1).to(dtype) for _ in range(3))
    others = {"plain": (None, None, None), "added": (added, None, None), "modulated": (None, scale, shift)}[kind]
    given = [x, others[0], weight, bias, *others[1:]]
    return [None if one is None else one.requires_grad_() for one in given], groups


def error(one, other) -> float:
    """Largest difference, in units of the largest value."""
    assert (one is None) == (other is None) and (one is None or (one.dtype, one.shape) == (other.dtype, other.shape))
    return 0.0 if one is None else float(((one - other).abs().max() / other.abs().max()).detach())


def first(function, given, groups):
    """The result and all gradients."""
    torch.manual_seed(1)
    y = function(*given, groups, 1e-5)
    dy = torch.randn(y.shape).to(y.dtype)  # in the format that is contiguous, whatever that of y
    return [y, *torch.autograd.grad(y, [one for one in given if one is not None], dy)]


def second(function, given, groups):
    """A gradient, and the gradients of its square."""
    torch.manual_seed(1)
    y = function(*given, groups, 1e-5)
    (gradient,) = torch.autograd.grad(y, given[0], torch.randn(y.shape), create_graph=True)
    wanted = [one for one in given if one is not None]
    return [gradient, *torch.autograd.grad(gradient.square().sum(), wanted, allow_unused=True)]


def compared(derivatives, given, groups) -> list[float]:
    both = (derivatives(function, given, groups) for function in (fused_norm.FusedNorm.apply, fused_norm.by_torch))
    return [error(*pair) for pair in zip(*both, strict=True)]


def of_network(name: str) -> dict:
    """A network by the kernel and by torch, and how often it would call the kernel."""
    torch.manual_seed(0)
    small = {"model_channels": 8, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
    network = make_network({"name": name, **small}, NetSpec((8, 8), 3)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter.data, std=0.2)
    x, c_noise, calls, decides = torch.randn(1, 3, 8, 8), torch.ones(1), [], fused_norm.runs_fused
    plain = network(x, c_noise, {})
    fused_norm.fuse_norms(network)
    unchanged = torch.equal(network(x, c_noise, {}), plain)
    fused_norm.runs_fused = lambda given: not calls.append(given.shape)  # as on CUDA
    fused = network(x, c_noise, {})
    fused_norm.runs_fused = decides
    return {"error": error(fused, plain), "calls": len(calls), "unchanged on the CPU": unchanged}


def main(path: str) -> None:
    torch.set_num_threads(1)
    found: dict = {"float32": {}, "half": {}, "second": {}, "formats": []}
    for kind in KINDS:
        for shape, sizes in SHAPES.items():
            for layout, memory_format in LAYOUTS.items():
                given, groups = inputs(kind, sizes, memory_format=memory_format)
                found["float32"][f"{kind}, {shape}, {layout}"] = compared(first, given, groups)
                y = fused_norm.FusedNorm.apply(*given, groups, 1e-5)
                found["formats"].append(y.is_contiguous(memory_format=memory_format))
        for dtype in (torch.bfloat16, torch.float16):
            given, groups = inputs(kind, SHAPES["groups not a power of two"], dtype)
            found["half"][f"{kind}, {dtype}"] = [max(compared(first, given, groups)), torch.finfo(dtype).eps]
        found["second"][kind] = compared(second, *inputs(kind, SHAPES["narrow groups"]))
    found["networks"] = {name: of_network(name) for name in NETWORKS}
    Path(path).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
