"""Which buffers training may change, and which need no copies while it runs."""

from torch import nn


def changing_buffers(module: nn.Module) -> list[str]:
    """Return the names of the buffers that training may change, e.g. the running means of batch normalisation.

    A class whose own buffers are constant says so by the attribute `constant_buffers`, which holds for itself and not
    for classes derived from it; all others may change.
    """
    changing = [
        (prefix, one) for prefix, one in module.named_modules() if not vars(type(one)).get("constant_buffers", False)
    ]
    return [f"{prefix}.{name}".lstrip(".") for prefix, one in changing for name, _ in one.named_buffers(recurse=False)]
