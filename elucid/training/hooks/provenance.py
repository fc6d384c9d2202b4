"""Records the provenance of a run in `run.json`, with an entry for each start of the run."""

import json
import os
import platform
import shlex
import socket
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import write_output
from elucid.dnnlib.reading.json_text import parse_json
from elucid.dnnlib.reading.regular import read_regular
from elucid.torch_utils import distributed
from elucid.training.hooks.base import Hook
from elucid.version import __version__

NAME = "run.json"


class Provenance(Hook):
    """Writes command line, versions, commit, host, device, start and end time, on the main process."""

    def __init__(self):
        self.path: Path | None = None
        self.entries: list[dict[str, Any]] = []

    def on_start(self, run, folder: Path) -> None:
        if not distributed.is_main():
            return
        self.path = folder / NAME
        self.entries = [
            *_earlier(self.path),
            {**describe_process(run.device), "started": _now(), "from_nimg": run.nimg},
        ]
        self._write()

    def on_tick(self, run, values) -> None:
        if self.entries:
            self.entries[-1]["nimg"] = run.nimg

    def close(self) -> None:
        if self.entries:
            self.entries[-1]["ended"] = _now()
            self._write()

    def _write(self) -> None:
        with write_output(self.path) as file:
            file.write(json.dumps(self.entries, indent=2).encode() + b"\n")


def describe_process(device: torch.device) -> dict[str, Any]:
    """Return command line, versions, commit, host and device of this process."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "command": shlex.join(sys.argv),
        "folder": os.getcwd(),
        "elucid": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "host": socket.gethostname(),
        "processes": distributed.world_size(),
        "device": f"{device.type}, {name}",
        "threads": torch.get_num_threads(),
    }


def _commit() -> str | None:
    """Return the git commit of the source tree, with `+` if files have changed; None if it is not a clone."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        run = {"cwd": root, "capture_output": True, "text": True, "timeout": 10}
        head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, **run).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], check=True, **run).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+" if changed.strip() else "")


def _earlier(path: Path) -> list[dict[str, Any]]:
    try:
        entries = parse_json(read_regular(str(path)), str(path))
    except (OSError, UserError):
        return []
    return entries if isinstance(entries, list) else []


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
