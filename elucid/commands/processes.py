"""Whether a command runs alone or as one of torchrun's processes."""

import os

from elucid.dnnlib.cli import SingleProcess


def processes() -> SingleProcess:
    """This process alone, or all of them, which needs torch."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return SingleProcess()
    from elucid.torch_utils.torchrun_errors import TorchrunProcesses

    return TorchrunProcesses()
