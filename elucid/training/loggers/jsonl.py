"""Logs to `stats.jsonl`, one line of JSON per tick."""

import json
import math
import time
from pathlib import Path
from typing import Any

from elucid.dnnlib.files import append_line, write_output
from elucid.training.loggers.base import Logger


class JSONLines(Logger):
    """Writes {"Loss/loss": {"num", "mean", "std"}, "Progress/kimg": ..., "timestamp": seconds} for each tick.

    What is not finite, such as the gradient norm of a step that overflowed in fp16, is null, as JSON has no other word.
    """

    def start(self, options: dict[str, Any], nimg: int) -> None:
        if self.folder is not None:
            _cut_stats(self.folder / "stats.jsonl", nimg)

    def values(self, values: dict[str, dict[str, float]], nimg: int) -> None:
        if self.folder is not None:
            finite = {name: {key: _finite(one) for key, one in value.items()} for name, value in values.items()}
            line = json.dumps({**finite, "timestamp": time.time()}, allow_nan=False)
            append_line(self.folder / "stats.jsonl", line)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


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
