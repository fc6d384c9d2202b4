"""The same bits in every run, on a GPU as well: kernels whose sums have a fixed order."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils import deterministic as uninitialized

from elucid.dnnlib.errors import UserError

WORKSPACES = (":4096:8", ":16:8")
"""Values of CUBLAS_WORKSPACE_CONFIG with which cuBLAS adds in a fixed order (its manual, section 2.1.4)."""

REFUSED = "does not have a deterministic implementation"
"""What torch says of an operation that has only kernels of another kind."""


def prepare_cublas() -> None:
    """Choose cuBLAS's workspace, before CUDA starts. Raises UserError if the environment has chosen another."""
    chosen = os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", WORKSPACES[0])
    if chosen not in WORKSPACES:
        raise UserError(
            f"`deterministic`=1 needs CUBLAS_WORKSPACE_CONFIG={WORKSPACES[0]}, not {chosen}; unset that variable"
        )


@contextmanager
def deterministic(wanted: bool, device: torch.device) -> Iterator[None]:
    """Use only operations with a fixed order of sums in this context, if `wanted`, and restore torch's choices.

    On CUDA attention is computed by torch's explicit or memory-efficient kernels, whose backward passes then have such
    an order. Raises UserError for an operation that has no such kernel on this device.
    """
    if not wanted:
        yield
        return
    prepare_cublas()
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    kernels = cudnn.deterministic, cudnn.benchmark, cuda.flash_sdp_enabled(), cuda.cudnn_sdp_enabled()
    fills = uninitialized.fill_uninitialized_memory
    try:
        torch.use_deterministic_algorithms(True)
        if device.type == "cpu":  # whose only kernel has that order
            _choose(True, False, *kernels[2:])
        else:
            _choose(True, False, False, False)
        uninitialized.fill_uninitialized_memory = False  # a kernel for each new tensor, to find what is read too early
        yield
    except RuntimeError as error:
        if REFUSED not in str(error):
            raise
        what = str(error).partition(REFUSED)[0].strip()
        said = f"`deterministic`=1: {what} has no deterministic kernel on this device; leave it out"
        raise UserError(said) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        _choose(*kernels)
        uninitialized.fill_uninitialized_memory = fills


def _choose(same: bool, bench: bool, flash: bool, cudnn_attention: bool) -> None:
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = same, bench
    torch.backends.cuda.enable_flash_sdp(flash)
    torch.backends.cuda.enable_cudnn_sdp(cudnn_attention)
