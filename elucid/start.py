"""How every script begins: nothing but Python itself is needed to say what is missing."""

import importlib
import os
import sys
from pathlib import Path

SPINS = "3000"
"""How often a thread of OpenMP looks whether the others are done before it sleeps (docs/performance.md has figures).

The default is to look for ever, which on cores that others use keeps the very thread from running that is waited for.
"""


def start(command: str) -> None:
    """Run `elucid.commands.COMMAND`; a package that is missing is one line and exit code 2."""
    calm_threads()
    try:
        importlib.import_module(f"elucid.commands.{command}").run()
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == "elucid" or not package:
            raise
        print(f"error: {missing(package)}", file=sys.stderr)
        sys.exit(2)


def calm_threads() -> None:
    """Threads that wait for each other do not spin for long; must come before torch is imported."""
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS


def missing(package: str) -> str:
    """What to do about a package that this Python lacks."""
    clone = Path(__file__).resolve().parent.parent
    python = clone / ".venv/bin/python"
    if python.exists() and Path(sys.prefix) != clone / ".venv":
        mend = f"activate the environment that make has set up: source {clone / '.venv/bin/activate'}"
    elif package == "torch":
        cpu = "pip install torch --index-url https://download.pytorch.org/whl/cpu"
        mend = f"install it, without a GPU by: {cpu}"
    else:
        mend = f"install what is needed: pip install -r {clone / 'requirements.txt'}"
    return f"{package} is not installed in {sys.executable}; {mend}"


def main() -> None:
    """The console command `elucid`."""
    start("main")
