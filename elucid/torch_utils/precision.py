"""Global float32 precision settings of torch, and what a device lacks."""

import torch

AMPERE = (8, 0)
"""The compute capability from which on GPUs have TensorFloat-32 and bfloat16."""


def set_precision(precision: str, bench: bool = True) -> None:
    """Enable TensorFloat-32 for tf32, fp16 and bf16, and disable it for fp32 (it is torch's default in convolutions).

    `bench` enables cuDNN benchmarking.
    """
    fast = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = fast
    torch.backends.cudnn.allow_tf32 = fast
    torch.backends.cudnn.benchmark = bench


def what_is_lacking(precision: str, device: torch.device) -> str | None:
    """Return a warning if the device does not have the precision, which says what it does instead; None if it has."""
    on_gpu = device.type == "cuda"
    older = on_gpu and torch.version.hip is None and torch.cuda.get_device_capability(device) < AMPERE
    if precision == "fp16" and not on_gpu:
        return "fp16 needs CUDA; training in float32 instead (--precision=bf16 works on every device)"
    if precision == "tf32" and (older or not on_gpu):
        return "tf32 needs a GPU of compute capability 8.0 or newer; training in float32 instead"
    if precision == "bf16" and older:
        name = torch.cuda.get_device_name(device)
        return f"{name} has no bf16 instructions, so that they are emulated, if at all; --precision=fp16 is for it"
    return None
