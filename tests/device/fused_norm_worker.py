"""A process in which Triton's kernels run on the CPU, by its interpreter: writes as JSON how far they are from torch.

Argument: file to write. TRITON_INTERPRET=1 must be in its environment, as triton looks at it when it is imported.
"""

import copy
import json
import sys
from pathlib import Path

import torch

from elucid.torch_utils.weights.working import working_weights
from elucid.training.config.build import make_network
from elucid.training.networks import adm_layers, blocks, layers
from elucid.training.networks.kernels import fused_norm, fused_residual, rows
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.types import NetSpec

KINDS = ("plain", "added", "modulated", "biased", "all but silu")
SHAPES = {
    "narrow groups": (2, 8, 2, 5, 5),
    "groups not a power of two": (2, 12, 4, 3, 7),
    "one group": (1, 6, 1, 2, 2),
    "several tiles and blocks of channels": (1, 192, 4, 9, 9),
    "chunks of several tiles": (1, 4, 1, 34, 31),
    "whole tiles": (1, 128, 4, 8, 8),
}
"""Batch, channels, groups, height, width."""

LAYOUTS = ("channels last", "channels first", "part of a concatenation")
NETWORKS = ("ddpmpp", "adm", "adm_unet")


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "channels first":
        return x
    if layout == "channels last":
        return x.to(memory_format=torch.channels_last)
    return torch.cat([x, x], dim=1).to(memory_format=torch.channels_last)[:, : x.shape[1]]


def inputs(kind: str, shape, dtype=torch.float32, layout="channels last"):
    torch.manual_seed(0)
    batch, channels, groups, height, width = shape
    x = laid_out((torch.randn(batch, channels, height, width) * 2 + 3).to(dtype), layout).detach()
    weight, bias, before = torch.randn(channels) + 1, torch.randn(channels), torch.randn(channels)
    added, scale, shift = (torch.randn(batch, 3 * channels, 1, 1).to(dtype)).chunk(3, dim=1)
    conditions = {
        "plain": (None, None, None, None),
        "added": (added, None, None, None),
        "modulated": (None, None, scale, shift),
        "biased": (None, before, None, None),
        "all but silu": (added, before, scale, shift),
    }[kind]
    given = [x, *conditions[:2], weight, bias, *conditions[2:]]
    return [None if one is None else one.requires_grad_() for one in given], (groups, 1e-5, kind != "all but silu")


def error(one, other) -> float:
    """Largest difference, in units of the largest value."""
    assert (one is None) == (other is None) and (one is None or (one.dtype, one.shape) == (other.dtype, other.shape))
    return 0.0 if one is None else float(((one - other).abs().max() / other.abs().max()).detach())


def first(function, given, how):
    """The result and all gradients."""
    torch.manual_seed(1)
    y = function(*given, *how)
    dy = torch.randn(y.shape).to(y.dtype)  # in the format that is contiguous, whatever that of y
    return [y, *torch.autograd.grad(y, [one for one in given if one is not None], dy)]


def second(function, given, how):
    """A gradient, and the gradients of its square."""
    torch.manual_seed(1)
    y = function(*given, *how)
    (gradient,) = torch.autograd.grad(y, given[0], torch.randn(y.shape), create_graph=True)
    wanted = [one for one in given if one is not None]
    return [gradient, *torch.autograd.grad(gradient.square().sum(), wanted, allow_unused=True)]


def second_of_sum(function, given, how):
    """The gradients, and the gradient of their squares by dy, as the sum is linear in all else."""
    torch.manual_seed(1)
    y = function(*given, *how)
    dy = torch.randn(y.shape).requires_grad_()
    gradients = torch.autograd.grad(y, given, dy, create_graph=True)
    return [*gradients, *torch.autograd.grad(sum(one.square().sum() for one in gradients), dy)]


def compared(derivatives, given, how, functions=(fused_norm.FusedNorm.apply, fused_norm.by_torch)) -> list[float]:
    return [error(*pair) for pair in zip(*(derivatives(function, given, how) for function in functions), strict=True)]


def summed(x, h, bias, factor):
    """What the fused residual sum computes, by torch's operations."""
    return ((x.float() + h.float() + bias.float()[:, None, None]) * factor).to(x.dtype)


def residual(shape, layout: str, factor: float, dtype=torch.float32, derivatives=first) -> list[float]:
    batch, channels, _, height, width = shape
    torch.manual_seed(2)
    x, h = (torch.randn(batch, channels, height, width).to(dtype) for _ in range(2))
    given = [laid_out(x, layout).detach(), h, torch.randn(channels)]
    functions = fused_residual.FusedResidual.apply, summed
    return compared(derivatives, [one.requires_grad_() for one in given], (factor,), functions)


def of_network(name: str) -> dict:
    """A network by the kernels and by torch, with gradients, and how often it would call the kernels."""
    torch.manual_seed(0)
    small = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [8], "dropout": 0.0}
    network = make_network({"name": name, **small}, NetSpec((8, 8), 3)).to(memory_format=torch.channels_last)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter.data, std=0.2)
    other, calls, decides = copy.deepcopy(network), [], rows.runs_fused
    for module in other.modules():
        if hasattr(module, "fused"):
            module.fused = True
    x, c_noise = torch.randn(1, 3, 8, 8).to(memory_format=torch.channels_last), torch.ones(1)
    plain = network(x, c_noise, {})
    unchanged = torch.equal(other(x, c_noise, {}), plain)
    for module in (fused_norm, layers, blocks, adm_layers):
        module.runs_fused = lambda given: not calls.append(given.shape)  # as on CUDA
    fused = other(x, c_noise, {})
    for module in (fused_norm, layers, blocks, adm_layers):
        module.runs_fused = decides
    dy = torch.randn(plain.shape)
    gradients = (torch.autograd.grad(y, list(net.parameters()), dy) for y, net in ((fused, other), (plain, network)))
    pairs = list(zip(*gradients, strict=True))  # some are zero, but for rounding
    largest = float(max((one - by).abs().max() for one, by in pairs) / max(by.abs().max() for _, by in pairs))
    seen = {"error": error(fused, plain), "calls": len(calls), "unchanged on the CPU": unchanged}
    return {**seen, "error of gradients": largest}


def of_working_weights(name: str) -> dict:
    """A network in bf16 in whose layers copies of the weights take part from the second pass on."""
    torch.manual_seed(0)
    small = {"model_channels": 8, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [4], "dropout": 0.0}
    network = make_network({"name": name, **small}, NetSpec((4, 4), 3)).to(memory_format=torch.channels_last)
    for module in network.modules():
        if hasattr(module, "fused"):
            module.fused = True
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter.data, std=0.2)
    denoiser, x, decides = (
        EDMPrecond(network, NetSpec((4, 4), 3), precision="bf16"),
        torch.randn(1, 3, 4, 4),
        rows.runs_fused,
    )
    for module in (fused_norm, layers, blocks, adm_layers):
        module.runs_fused = lambda given: given.is_contiguous(memory_format=torch.channels_last)
    x, passes = x.to(memory_format=torch.channels_last), []
    for count in (2, 1):
        with working_weights(denoiser, keep=True):
            for _ in range(count):
                y = denoiser(x, 0.5).x0
                passes.append([y, *torch.autograd.grad(y.square().sum(), list(network.parameters()))])
    for module in (fused_norm, layers, blocks, adm_layers):
        module.runs_fused = decides
    copied = {id(one) for one in denoiser.working.copies[torch.bfloat16].masters}
    norms = [one for one in network.modules() if isinstance(one, layers.GroupNorm)]
    return {
        "equal": all(torch.equal(*pair) for other in passes[1:] for pair in zip(passes[0], other, strict=True)),
        "norms are copied": all(id(one.weight) in copied for one in norms),
    }


def main(path: str) -> None:
    torch.set_num_threads(1)
    found: dict = {"float32": {}, "half": {}, "second": {}, "residual": {}, "formats": []}
    for shape, sizes in SHAPES.items():
        for kind in KINDS:
            given, how = inputs(kind, sizes)
            found["float32"][f"{kind}, {shape}"] = compared(first, given, how)
        for layout in LAYOUTS:
            given, how = inputs("added", sizes, layout=layout)
            found["float32"][f"{layout}, {shape}"] = compared(first, given, how)
            y = fused_norm.FusedNorm.apply(*given, *how)
            found["formats"].append(y.is_contiguous(memory_format=torch.channels_last))
            found["residual"][f"{layout}, {shape}"] = residual(sizes, layout, 0.7)
    sizes = SHAPES["groups not a power of two"]
    found["residual"]["factor 1"] = residual(sizes, "channels last", 1.0)
    found["second"]["residual"] = residual(sizes, "channels last", 0.7, derivatives=second_of_sum)
    for dtype in (torch.bfloat16, torch.float16):
        for kind in KINDS:
            given, how = inputs(kind, sizes, dtype)
            found["half"][f"{kind}, {dtype}"] = [max(compared(first, given, how)), torch.finfo(dtype).eps]
        given = residual(sizes, "channels last", 0.7, dtype)
        found["half"][f"residual, {dtype}"] = [max(given), torch.finfo(dtype).eps]
    for kind in KINDS:
        found["second"][kind] = compared(second, *inputs(kind, SHAPES["narrow groups"]))
    found["working"] = {name: of_working_weights(name) for name in NETWORKS}
    found["networks"] = {name: of_network(name) for name in NETWORKS}
    Path(path).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
