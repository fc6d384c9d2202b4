"""Compile the Triton kernels for GPUs that are not there: `python -m benchmarks.cross_compile`.

It needs the package triton and no GPU, and shows that the kernels compile and what they take of a GPU, not how fast
they are.
"""

import re

import click
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from elucid.training.networks.kernels import triton_group_norm as norm
from elucid.training.networks.kernels import triton_residual as residual
from elucid.training.networks.kernels.rows import WARPS

ARCHITECTURES = {"sm_80": 80, "sm_90a": 90, "sm_100a": 100}
TYPES = {"bf16": "*bf16", "fp16": "*fp16", "fp32": "*fp32"}
FLOAT32 = {"means", "squares", "factors", "found", "back", "sums"}
"""Tensors that are float32; the others have the network's precision."""
FLOATS = {"eps", "factor"}
CONSTANTS = {"STORES": True, "ACTIVATES": True, "ADDS": True, "BIASES": True, "MODULATES": True}


def compiled(kernel, precision: str, architecture: str, constants: dict, warps: int):
    """Compile a kernel with all that it can do."""
    constants = {name: value for name, value in {**CONSTANTS, **constants}.items() if name in kernel.arg_names}
    types = dict.fromkeys(constants, "constexpr")
    for name in kernel.arg_names:
        counts = name in FLOATS or name.startswith("s_") or name in ("C", "CG", "HW", "rows", "chunks", "per_chunk")
        kind = ("fp32" if name in FLOATS else "i32") if counts else "*fp32" if name in FLOAT32 else TYPES[precision]
        types.setdefault(name, kind)
    source = ASTSource(fn=kernel, signature={name: types[name] for name in kernel.arg_names}, constexprs=constants)
    target = GPUTarget("cuda", ARCHITECTURES[architecture], 32)
    return triton.compile(source, target=target, options={"num_warps": warps})


@click.command()
@click.option("--channels", type=int, default=256, show_default=True)
@click.option("--side", type=int, default=32, show_default=True)
def main(channels: int, side: int) -> None:
    """Print a line for each kernel, architecture and precision."""
    print(f"triton {triton.__version__}; {channels} channels at {side}x{side}")
    tile = norm.tile(channels, side * side)
    group = {"CHUNKS": norm.chunks(side * side, tile), "COLS": channels // 32}
    sizes = {norm.coefficients: group, norm.gradient_coefficients: group}
    sizes |= dict.fromkeys((norm.statistics, norm.normalise, norm.sums, norm.gradient), tile)
    sizes |= dict.fromkeys((residual.forward, residual.backward), {**residual.tile(channels), "STEPS": residual.STEPS})
    for kernel, constants in sizes.items():
        for architecture in ARCHITECTURES:
            for precision in TYPES:
                made = compiled(kernel, precision, architecture, constants, 1 if constants is group else WARPS)
                target = re.search(r"^\.target (\S+)", made.asm["ptx"], re.MULTILINE)[1]
                taken = f"cubin {len(made.asm['cubin']):6d} bytes, shared memory {made.metadata.shared} bytes"
                print(f"{kernel.__name__:22s} {precision}  {target:9s}{taken}")


if __name__ == "__main__":
    main()
