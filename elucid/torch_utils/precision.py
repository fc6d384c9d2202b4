"""Which arithmetic torch may use for float32."""

import torch


def set_precision(precision: str, bench: bool = True) -> None:
    """TensorFloat-32 for tf32, fp16 and bf16, but not for fp32, where torch's convolutions would use it by default.

    `bench` lets cuDNN choose its algorithms by timing them.
    """
    fast = precision != "fp32"
    torch.backends.cuda.matmul.allow_tf32 = fast
    torch.backends.cudnn.allow_tf32 = fast
    torch.backends.cudnn.benchmark = bench
