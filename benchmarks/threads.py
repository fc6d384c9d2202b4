"""Speed of the demo's training by how threads wait for each other, on a free machine and beside busy loops.

    python benchmarks/threads.py [--kimg=4] [--repeats=3]

Settings take turns, so that a machine that slows down slows all of them; printed are medians in images/s.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = {
    "torch as it is": {"GOMP_SPINCOUNT": "infinity"},
    "GOMP_SPINCOUNT=10000": {"GOMP_SPINCOUNT": "10000"},
    "GOMP_SPINCOUNT=3000": {"GOMP_SPINCOUNT": "3000"},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "GOMP_SPINCOUNT=300": {"GOMP_SPINCOUNT": "300"},
    "GOMP_SPINCOUNT=0": {"GOMP_SPINCOUNT": "0"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}


@contextmanager
def busy(loops: int):
    """That many processes which do nothing but work."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def speed(data: Path, folder: Path, kimg: float, setting: dict[str, str]) -> float:
    """Images/s of the last of four ticks."""
    free = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    flags = [f"--duration={kimg / 1000}", f"--tick={kimg / 4}", "--set=loop.grid_images=0", "--device=cpu"]
    command = [sys.executable, "train.py", "--preset=demo", f"--data={data}", f"--outdir={folder}", *flags]
    subprocess.run(command, cwd=ROOT, env={**free, **setting}, check=True, capture_output=True)
    run = max(folder.iterdir())
    return json.loads((run / "stats.jsonl").read_text().splitlines()[-1])["Timing/images_per_sec"]["mean"]


@click.command()
@click.option("--kimg", default=4.0, help="Thousand images of each run.")
@click.option("--repeats", default=3, help="Runs of each setting.")
@click.option("--loops", default="0,2", help="Busy loops beside it.")
def main(kimg: float, repeats: int, loops: str) -> None:
    """Measure every setting beside so many busy loops."""
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "digits.zip"
        source = ["dataset_tool.py", "--source=builtin:digits-train", f"--dest={data}"]
        subprocess.run([sys.executable, *source], cwd=ROOT, check=True, capture_output=True)
        for count in map(int, loops.split(",")):
            speeds: dict[str, list[float]] = {name: [] for name in SETTINGS}
            with busy(count):
                for _ in range(repeats):
                    for name, setting in SETTINGS.items():
                        speeds[name].append(speed(data, Path(folder) / "runs", kimg, setting))
            for name, values in speeds.items():
                print(f"{count} busy loops  {name:24s} {statistics.median(values):7.1f} images/s", flush=True)


if __name__ == "__main__":
    main()
