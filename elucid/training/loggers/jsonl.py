"""Logs to `stats.jsonl`, one line of JSON per tick."""

import json
import time
from pathlib import Path
from typing import Any

from elucid.dnnlib.files import append_line, write_output
from elucid.training.loggers.base import Logger


class JSONLines(Logger):
    """Writes {"Loss/loss": {"num", "mean", "std"}, "Progress/kimg": ..., "timestamp": seconds} for each tick."""

    def start(self, options: dict[str, Any], nimg: int) -> None:
        if self.folder is not None:
            _cut_stats(self.folder / "stats.jsonl", nimg)

    def values(self, values: dict[str, dict[str, float]], nimg: int) -> None:
        if self.folder is not None:
            append_line(self.folder / "stats.jsonl", json.dumps({**values, "timestamp": time.time()}))


def _cut_stats(path: Path, nimg: int) -> None:
    """Drop lines that the resumed run will write again, and a line left incomplete by a killed process."""
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["Progress/kimg"]["mean"] * 1000 <= nimg + 0.5:
                kept.append(line)
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
    with write_output(path) as file:
        file.write("".join(line + "\n" for line in kept).encode())
