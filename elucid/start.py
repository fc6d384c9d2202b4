"""Entry point of all scripts. It only needs the standard library, to report missing packages."""

import ctypes
import importlib
import os
import sys
from pathlib import Path

from elucid.dnnlib import launcher as launcher  # notes the parent while it lives

SPINS = "3000"
"""How many times an OpenMP thread polls for the others before it sleeps (see docs/performance.md for timings).

By default it polls forever, which on a shared machine takes the core from the thread it waits for.
"""


KEPT = ((-3, 32 << 20), (-1, 1 << 30), (-2, 64 << 20))
"""Options of glibc's `mallopt`: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD and M_TOP_PAD, and their values in bytes."""


def start(command: str) -> None:
    """Run `elucid.commands.COMMAND`; a missing package gives one line of error and exit code 2."""
    calm_threads()
    keep_pages()
    try:
        importlib.import_module(f"elucid.commands.{command}").run()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "elucid" or not package:
            raise
        print(f"error: {missing(package)}", file=sys.stderr)
        sys.exit(2)


def calm_threads() -> None:
    """Limit busy waiting of OpenMP threads; must be called before torch is imported."""
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS


def keep_pages() -> None:
    """Let glibc keep up to 1 GiB of freed memory: otherwise each step of a small network gets its tensors as new pages.

    Environment variables `MALLOC_*` take precedence; other allocators and systems are left alone.
    """
    if sys.platform != "linux" or any(name.startswith("MALLOC_") for name in os.environ):
        return
    try:
        set_option = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for option, value in KEPT:
        set_option(option, value)


def missing(package: str) -> str:
    """Return an error message for a missing package that says how to install it."""
    clone = Path(__file__).resolve().parent.parent
    python = clone / ".venv/bin/python"
    if python.exists() and Path(sys.prefix) != clone / ".venv":
        mend = f"activate the environment created by make: source {clone / '.venv/bin/activate'}"
    elif package == "torch":
        cpu = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
        mend = f"install it, without a GPU with: {cpu}"
    else:
        mend = f"install the requirements: pip install -r {clone / 'requirements.txt'}"
    return f"{package} is not installed in {sys.executable}; {mend}"


def main() -> None:
    """The console command `elucid`."""
    start("main")
