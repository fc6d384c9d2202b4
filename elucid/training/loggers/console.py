"""Logs to the terminal and `log.txt`: text, a status line per tick, and a progress bar."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from elucid.dnnlib.errors import clean_lines
from elucid.dnnlib.files import append_line
from elucid.dnnlib.progress import progress_bar
from elucid.training.loggers.base import Logger

WIDTH = 100
"""Maximum width of the status line in characters."""


class Console(Logger):
    """Writes lines to the terminal and the folder's `log.txt`, and shows a progress bar."""

    def __init__(self, folder: Path | None):
        super().__init__(folder)
        self.bar: tqdm | None = None
        self.total_nimg = 0
        self.scores = ""  # the last ones of the run's samples

    def start(self, options: dict[str, Any], nimg: int) -> None:
        if self.bar is not None:
            self.bar.close()
        self.total_nimg = round(options["loop"]["duration_mimg"] * 1e6)
        self.bar = progress_bar(total=self.total_nimg, initial=nimg, unit_scale=True, desc="training")

    def line(self, text: str) -> None:
        text = clean_lines(text)  # it may have names from files
        tqdm.write(text, file=sys.stdout)
        sys.stdout.flush()
        if self.folder is not None:
            append_line(self.folder / "log.txt", text)

    def step(self, nimg: int, loss: float | None = None) -> None:
        if self.bar is not None:
            if loss is not None:
                self.bar.set_postfix_str(f"loss {loss:.4f}{self.scores}", refresh=False)
            self.bar.update(nimg - self.bar.n)

    def values(self, values: dict[str, dict[str, float]], nimg: int) -> None:
        mean = {name: value["mean"] for name, value in values.items()}
        scores = [f", {name.removeprefix('Eval/')} {one:.4g}" for name, one in mean.items() if name.startswith("Eval/")]
        self.scores = "".join(scores) or self.scores
        left = max(self.total_nimg - nimg, 0) / max(mean["Timing/images_per_sec"], 1e-9)
        line = " ".join(
            [
                f"tick {mean['Progress/tick']:<4.0f}",
                f"kimg {mean['Progress/kimg']:<8.1f}",
                f"time {format_time(mean['Timing/total_sec']):<11s}",
                f"img/s {mean['Timing/images_per_sec']:<7.1f}",
                f"left {format_time(left):<11s}",
                f"lr {mean['Optimizer/lr']:<7.2g}",
                f"loss {mean.get('Loss/loss', math.nan):<7.4f}",
            ]
        )
        for column in self.further(mean):
            if len(line) + 1 + len(column) <= WIDTH:
                line = f"{line} {column}"
        self.line(line.rstrip())

    @staticmethod
    def further(mean: dict[str, float]) -> Iterator[str]:
        """Yield further columns, shown as far as they fit; `stats.jsonl` has all values."""
        gpu = mean["Resources/peak_gpu_mem_gb"]
        if gpu:
            yield f"gpu {gpu:.1f}G"
        waited = mean.get("Timing/data_wait_sec", 0) / max(mean.get("Timing/sec_per_tick", 0), 1e-9)
        if waited >= 0.01:
            yield f"data wait {waited:.0%}"
        for name, value in mean.items():
            if name.startswith("Loss/") and name != "Loss/loss":
                yield f"{name.removeprefix('Loss/')} {value:.4f}"
        yield f"grad {mean.get('Optimizer/grad_norm', 0):.3g}"

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def format_time(seconds: float) -> str:
    """Format a duration as `42s`, `3m 07s`, `2h 05m 09s` or `1d 04h 12m`."""
    seconds = round(seconds)
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days}d {hours:02d}h {minutes:02d}m"
    if hours:
        return f"{hours}h {minutes:02d}m {seconds % 60:02d}s"
    return f"{minutes}m {seconds % 60:02d}s" if minutes else f"{seconds}s"
