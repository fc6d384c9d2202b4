"""Copies all images of a dataset to the memory of the device, in chunks, so that the host holds one chunk at a time."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from elucid.dnnlib.progress import progress_bar
from elucid.torch_utils import distributed

CHUNK = 64 << 20
"""Bytes copied at a time, the most that a process holds on the host besides what all share."""


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that are free on a device; None if it does not tell."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def on_device(
    count: int, read: Callable[[np.ndarray], np.ndarray], device: torch.device, share: float
) -> tuple[Tensor | None, str]:
    """Copy `count` images to the device; `read(indices)` returns some of them, [len(indices),C,H,W].

    Returns the images [N,C,H,W] and an empty text; or None and the reason if they would take more than `share` of the
    free memory, as model, optimizer and activations need the rest.
    """
    first = read(np.zeros(1, dtype=np.int64))
    size, free = count * first.nbytes, free_memory(device)
    if free is not None and size > share * free:
        return None, f"{size / 2**30:.2f} GiB are more than {share:g} of the {free / 2**30:.2f} GiB free on {device}"
    try:
        images = torch.empty((count, *first.shape[1:]), dtype=torch.from_numpy(first).dtype, device=device)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        return None, f"{size / 2**30:.2f} GiB are not free on {device} ({str(error).partition('. ')[0]})"
    _fill(images, read, max(CHUNK // max(first.nbytes, 1), 1))
    return images, ""


def _fill(images: Tensor, read: Callable[[np.ndarray], np.ndarray], at_a_time: int) -> None:
    """Copy through one buffer, which is pinned for CUDA."""
    count = len(images)
    shape = (min(at_a_time, count), *images.shape[1:])
    buffer = torch.empty(shape, dtype=images.dtype, pin_memory=images.is_cuda)
    shown = {"desc": f"copying images to {images.device}", "disable": distributed.local_rank() != 0}
    with progress_bar(total=count, delay=2, leave=False, **shown) as bar:
        for start in range(0, count, at_a_time):
            indices = np.arange(start, min(start + at_a_time, count))
            part = buffer[: len(indices)]
            part.copy_(torch.from_numpy(read(indices)))
            images[start : start + len(part)].copy_(part)  # waits, so that the buffer can be filled again
            bar.update(len(part))
