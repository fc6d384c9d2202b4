"""Compile the fused normalisation's Triton kernels for GPUs that are not there: `python -m benchmarks.cross_compile`.

It needs the package triton and no GPU, and shows that the kernels compile and what they take of a GPU, not how fast
they are.
"""

import re

import click
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from elucid.training.networks.kernels import triton_group_norm as kernels

ARCHITECTURES = {"sm_80": 80, "sm_90a": 90, "sm_100a": 100}
TYPES = {"bf16": "*bf16", "fp16": "*fp16", "fp32": "*fp32"}
SAME = ("x", "y", "dy", "dx")
"""Tensors of the network's precision; the others are float32."""


def signature(kernel, precision: str) -> dict[str, str]:
    """Types of a kernel's arguments, as at a launch."""
    counts = {"C", "HW", "CG", "s_image", "s_channel", "s_place"}
    kinds = {"eps": "fp32", **dict.fromkeys(counts, "i32"), **dict.fromkeys(SAME, TYPES[precision])}
    kinds |= dict.fromkeys(("ADDS", "MODULATES", "ROWS", "COLS"), "constexpr")
    return {name: kinds.get(name, "*fp32") for name in kernel.arg_names}


def compiled(kernel, precision: str, architecture: str, adds: bool, modulates: bool, channels: int, side: int):
    """Compile a kernel as for images [B,channels,side,side] with 32 groups, channels last."""
    _, rows, columns = kernels.grid_and_tile(1, channels, 32, side * side)
    constants = {"ADDS": adds, "MODULATES": modulates, "ROWS": rows, "COLS": columns, "s_channel": 1}
    types = {**signature(kernel, precision), "s_channel": "constexpr"}  # as a launch with that stride does
    source = ASTSource(fn=kernel, signature=types, constexprs=constants)
    target = GPUTarget("cuda", ARCHITECTURES[architecture], 32)
    return triton.compile(source, target=target, options={"num_warps": kernels.WARPS})


@click.command()
@click.option("--channels", type=int, default=256, show_default=True)
@click.option("--side", type=int, default=32, show_default=True)
def main(channels: int, side: int) -> None:
    """Print a line for each kernel, architecture and precision."""
    print(f"triton {triton.__version__}; {channels} channels at {side}x{side}")
    for name, kernel in {"forward": kernels.forward, "backward": kernels.backward}.items():
        for architecture in ARCHITECTURES:
            for precision in TYPES:
                for kind, flags in {"added": (True, False), "modulated": (False, True)}.items():
                    made = compiled(kernel, precision, architecture, *flags, channels, side)
                    target = re.search(r"^\.target (\S+)", made.asm["ptx"], re.MULTILINE)[1]
                    sizes = f"cubin {len(made.asm['cubin']):6d} bytes, shared memory {made.metadata.shared} bytes"
                    print(f"{name:9s}{kind:10s}{precision}  {target:9s}{sizes}")


if __name__ == "__main__":
    main()
