"""The process that started this one, and whether it is gone. Needs the standard library only; imported early."""

import os

PARENT = os.getppid()
"""Noted before torch is imported, which may take longer than the launcher lives."""


def launcher_is_gone() -> bool:
    """Return whether the parent has ended, or had ended before it was noted: an orphan's parent is process 1.

    In a container torchrun may be process 1 itself, a program of Python.
    """
    if os.getppid() != PARENT:
        return True
    if PARENT != 1:
        return False
    try:
        with open("/proc/1/cmdline", "rb") as file:
            command = file.read()
    except OSError:
        return False
    return b"python" not in command and b"torch" not in command
