"""Copies between host and device for which the host does not wait."""

from collections.abc import Sequence

import torch
from torch import Tensor


class Later:
    """Numbers of the device that the host reads later, when they have long been copied."""

    def __init__(self, values: Tensor):
        self.host = values.detach().to("cpu", non_blocking=values.device.type != "mps")
        self.copied = torch.cuda.Event() if values.is_cuda else None
        if self.copied is not None:
            self.copied.record(torch.cuda.current_stream(values.device))

    def read(self) -> list | float | bool:
        """Return the values as numbers; waits only if the device has not got there yet."""
        if self.copied is not None:
            self.copied.synchronize()
        return self.host.tolist()


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host in memory that CUDA copies from without the host; as it is for other devices."""
    return tensor.pin_memory() if device.type == "cuda" and not tensor.is_cuda else tensor


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on the device; the host does not wait for its copy, except for one to the host."""
    return tensor.to(device) if device.type == "cpu" else pinned(tensor, device).to(device, non_blocking=True)


def to_device(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copy small float32 tensors of the host to the device, all in one transfer."""
    if device.type == "cpu":
        return list(tensors)
    together = torch.cat([one.reshape(-1) for one in tensors])
    parts = moved(together, device).split([one.numel() for one in tensors])
    return [part.reshape(one.shape) for part, one in zip(parts, tensors, strict=True)]
