"""Logs to `stats.jsonl`, one line of JSON per tick."""

import json
import math
import time
from pathlib import Path
from typing import Any

from elucid.dnnlib.errors import UserError, note
from elucid.dnnlib.files import append_line, write_output
from elucid.dnnlib.reading.json_text import parse_json
from elucid.training.loggers.base import Logger

_LONGEST = 1 << 22  # bytes of a line


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
    """Drop lines that the resumed run will write again; keep damaged ones in another file, and say so.

    A last line without its end is what a killed process leaves, and is dropped.
    """
    if not path.is_file():
        return
    kept, damaged = [], []
    with open(path, "rb") as file:
        while line := file.readline(_LONGEST):
            kimg = _kimg(line, path)
            if kimg is None:
                damaged.append(line)
            elif kimg * 1000 <= nimg + 0.5:
                kept.append(line.rstrip(b"\n") + b"\n")
    if damaged and not damaged[-1].endswith(b"\n"):
        damaged.pop()
    if damaged:
        aside = path.with_name("stats-damaged.jsonl")
        with open(aside, "ab") as file:
            file.writelines(damaged)
        note(f"{path} has {len(damaged)} damaged lines, which are kept in {aside}")
    with write_output(path) as file:
        file.writelines(kept)


def _kimg(line: bytes, path: Path) -> float | None:
    """Return the progress in a line of statistics; None if it is none."""
    try:
        value = parse_json(line, str(path))["Progress/kimg"]["mean"]
    except (UserError, KeyError, TypeError):
        return None
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None
