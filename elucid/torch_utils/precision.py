"""Global float32 precision settings of torch."""

import torch


def set_precision(precision: str, bench: bool = True) -> None:
    """Enable TensorFloat-32 for tf32, fp16 and bf16, and disable it for fp32 (it is torch's default in convolutions).

    `bench` enables cuDNN benchmarking.
    """
    fast = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = fast
    torch.backends.cudnn.allow_tf32 = fast
    torch.backends.cudnn.benchmark = bench
