"""What a run says while it trains: log lines, `stats.jsonl`, a progress bar."""

import json
import os
import sys
import time
from pathlib import Path

import psutil
import torch
from tqdm import tqdm

from elucid.dnnlib.files import append_line, write_output
from elucid.dnnlib.progress import progress_bar
from elucid.torch_utils import distributed


class Log:
    """Lines to the terminal and to `log.txt`, in the main process only."""

    def __init__(self, folder: Path | None):
        self.path = folder / "log.txt" if folder is not None and distributed.is_main() else None

    def __call__(self, line: str = "") -> None:
        if not distributed.is_main():
            return
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
        if self.path is not None:
            append_line(self.path, line)


def format_time(seconds: float) -> str:
    """`42s`, `3m 07s`, `2h 05m 09s`, `1d 04h 12m`."""
    seconds = round(seconds)
    days, hours, minutes = seconds // 86400, seconds // 3600 % 24, seconds // 60 % 60
    if days:
        return f"{days}d {hours:02d}h {minutes:02d}m"
    if hours:
        return f"{hours}h {minutes:02d}m {seconds % 60:02d}s"
    return f"{minutes}m {seconds % 60:02d}s" if minutes else f"{seconds}s"


class Report:
    """Ticks of a run: one status line and one line of `stats.jsonl` each, and a bar with images/s and time left."""

    def __init__(self, run, folder: Path | None, log: Log):
        self.run, self.folder, self.log = run, folder, log
        self.tick_started = time.time()
        self.first_nimg = run.nimg  # after a stop within a tick, speed counts what this process has done
        self.maintenance = 0.0
        self.bar = progress_bar(
            total=run.loop.total_nimg,
            initial=run.nimg,
            unit_scale=True,
            desc="training",
            disable=not distributed.is_main(),
        )
        if folder is not None and distributed.is_main():
            _cut_stats(folder / "stats.jsonl", run.nimg)

    def step(self, images: int) -> None:
        self.bar.update(images)

    def end_tick(self) -> None:
        """Collect the statistics of all processes and print them. Called before `run.tick_start_nimg` moves on."""
        run, now = self.run, time.time()
        seconds = now - self.tick_started
        kimg = max(run.nimg - max(run.tick_start_nimg, self.first_nimg), 1) / 1000
        run.elapsed += seconds + self.maintenance
        values = {
            "Progress/tick": run.tick,
            "Progress/kimg": run.nimg / 1000,
            "Timing/total_sec": run.elapsed,
            "Timing/sec_per_tick": seconds,
            "Timing/sec_per_kimg": seconds / kimg,
            "Timing/images_per_sec": kimg * 1000 / max(seconds, 1e-9),
            "Timing/maintenance_sec": self.maintenance,
            "Resources/cpu_mem_gb": psutil.Process(os.getpid()).memory_info().rss / 2**30,
            "Resources/peak_gpu_mem_gb": 0.0,
            "Resources/peak_gpu_mem_reserved_gb": 0.0,
        }
        if run.device.type == "cuda":
            values["Resources/peak_gpu_mem_gb"] = torch.cuda.max_memory_allocated(run.device) / 2**30
            values["Resources/peak_gpu_mem_reserved_gb"] = torch.cuda.max_memory_reserved(run.device) / 2**30
            torch.cuda.reset_peak_memory_stats(run.device)
        statistics = run.stats.collect()
        self._print(values, statistics)
        self._write(values, statistics)
        self.maintenance = 0.0
        self.tick_started = now

    def pause(self) -> None:
        """The run stops within a tick: its time counts."""
        self.run.elapsed += time.time() - self.tick_started + self.maintenance

    def end_maintenance(self) -> None:
        """Saving ends here; the next tick starts now."""
        now = time.time()
        self.maintenance, self.tick_started = now - self.tick_started, now

    def _print(self, values: dict, statistics: dict) -> None:
        run = self.run
        left = max(run.loop.total_nimg - run.nimg, 0) / max(values["Timing/images_per_sec"], 1e-9)
        losses = [
            f"{name.removeprefix('Loss/')} {value['mean']:.4f}"
            for name, value in statistics.items()
            if name.startswith("Loss/")
        ]
        columns = [
            f"tick {run.tick:<5d}",
            f"kimg {run.nimg / 1000:<9.1f}",
            f"time {format_time(run.elapsed):<12s}",
            f"sec/tick {values['Timing/sec_per_tick']:<7.1f}",
            f"sec/kimg {values['Timing/sec_per_kimg']:<7.2f}",
            f"img/s {values['Timing/images_per_sec']:<8.1f}",
            f"left {format_time(left):<12s}",
            f"maintenance {values['Timing/maintenance_sec']:<6.1f}",
            f"cpumem {values['Resources/cpu_mem_gb']:<6.2f}",
            f"gpumem {values['Resources/peak_gpu_mem_gb']:<6.2f}",
            f"reserved {values['Resources/peak_gpu_mem_reserved_gb']:<6.2f}",
            *losses,
        ]
        self.log(" ".join(columns).rstrip())

    def _write(self, values: dict, statistics: dict) -> None:
        if self.folder is None or not distributed.is_main():
            return
        line = {**statistics, **{name: {"num": 1, "mean": value, "std": 0.0} for name, value in values.items()}}
        append_line(self.folder / "stats.jsonl", json.dumps({**line, "timestamp": time.time()}))

    def close(self) -> None:
        self.bar.close()


def _cut_stats(path: Path, nimg: int) -> None:
    """Drop lines of `stats.jsonl` that the run will write again, and a line that a kill left half-written."""
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
