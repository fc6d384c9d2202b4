"""Linear maps of tokens on CPUs for which MKL, torch's matrix product there, uses older instructions than oneDNN."""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from elucid.training.networks.kernels.cpu import takes_own_gradient, torchs_gradient


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return x weight^T + bias for x [..., K], weight [N,K], bias [N] or None."""
    return OneDNNLinear.apply(x, weight, bias) if runs_onednn(x) else F.linear(x, weight, bias)


def runs_onednn(x: Tensor) -> bool:
    """Return whether oneDNN computes it: tokens [B,N,K] in float32 on such a CPU, in code that is not compiled."""
    return x.ndim == 3 and takes_own_gradient(x) and onednn_is_faster()


@lru_cache
def onednn_is_faster() -> bool:
    """Return whether MKL is torch's BLAS on a CPU that is not Intel's, and oneDNN's product can be called.

    There MKL keeps to AVX2, which takes twice the time where there is AVX-512 (docs/performance.md).
    """
    backends = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return backends and hasattr(torch.ops.mkldnn, "_linear_pointwise") and has_avx512_of_another_maker()


def has_avx512_of_another_maker() -> bool:
    """Return whether the CPU has AVX-512 and is not Intel's; False where Linux does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return False
    return "avx512f" in text and "vendor_id" in text and "GenuineIntel" not in text


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x weight^T + bias by oneDNN; any strides."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class OneDNNLinear(torch.autograd.Function):
    """x weight^T + bias and its gradients by oneDNN; second derivatives by torch."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.has_bias = bias is not None
        return product(x, weight, bias)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        rows, inputs = dy.flatten(0, -2), x.flatten(0, -2)
        again = torchs_gradient(dy)
        dx = dw = None
        if of_x:
            dx = dy @ weight if again else product(dy, weight.t())
        if of_weight:
            dw = rows.t() @ inputs if again else product(rows.t(), inputs.t())
        return dx, dw, rows.sum(0) if of_bias and ctx.has_bias else None
