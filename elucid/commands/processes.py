"""Processes of a command: a single one, or those of torchrun."""

import os

from elucid.dnnlib.cli import SingleProcess


def processes() -> SingleProcess:
    """Return the interface to a single process, or to all of torchrun's, which needs torch."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return SingleProcess()
    from elucid.torch_utils.torchrun.errors import TorchrunProcesses

    return TorchrunProcesses()
