"""What training and sampling cost here: one table and a JSON file. `make bench`.

    python benchmarks/bench.py [--out=bench.json] [--arch=demo,ddpmpp] [--precision=fp32] [--compile=0,1] [--quick]

On a GPU it first checks that the numbers are right (`gpu_check.py`), and measures nothing if they are not. Each row is
a process of its own (`throughput.py`), and so is each count on the simulated device (`counts.py`). `compare.py`
compares two results.
"""

import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402

from benchmarks.recipes import NETWORKS  # noqa: E402
from benchmarks.throughput import cpu_has_bf16  # noqa: E402
from elucid.dnnlib import cli  # noqa: E402
from elucid.torch_utils.distributed import choose_device  # noqa: E402

COLUMNS = {
    "train_img_s": "training, images/s",
    "train_share": "share of the ceiling",
    "sample_img_s": "sampling, images/s",
    "sample_share": "share",
    "peak_gib": "peak, GiB",
    "compile_s": "compiling, s",
    "graphs": "graphs",
    "data_wait_share": "waiting for data",
    "launches": "launches",
    "to_device": "copies to the device",
    "waits": "waits",
}


def machine(device: torch.device) -> dict:
    """What the figures hold for."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def child(module: str, *flags: str) -> dict | None:
    """Run a module of this folder and return its last line; None, with its error, if it fails."""
    done = subprocess.run([sys.executable, "-m", module, *flags], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        click.echo(f"{module} {' '.join(flags)} failed: {(done.stderr.strip().splitlines() or ['?'])[-1]}", err=True)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def cell(value) -> str:
    if value is None:
        return ""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@click.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default="bench.json", show_default=True)
@click.option("--arch", default=",".join(NETWORKS), show_default=True, help="Networks, comma-separated.")
@click.option("--precision", help="Comma-separated.  [default: all that the device has]")
@click.option("--compile", "compiled", default="0", show_default=True, help="0, 1, or 0,1.")
@click.option("--batch", type=int, help="Images per step.  [default: 4, 32 for the demo, 128 on a GPU]")
@click.option("--repeats", type=int, default=3, show_default=True)
@click.option("--quick", is_flag=True, help="The demo's network in float32 only.")
@click.option("--device", "device_name")
def main(out, arch, precision, compiled, batch, repeats, quick, device_name):
    """Measure, print the table, and write the JSON file."""
    device, began = choose_device(device_name), time.monotonic()
    on_gpu = device.type == "cuda"
    about = machine(device)
    click.echo("; ".join(f"{name} {value}" for name, value in about.items()))
    if on_gpu and subprocess.run([sys.executable, "-m", "benchmarks.gpu_check"], cwd=ROOT).returncode:
        sys.exit("the numbers are wrong on this GPU; nothing is measured")
    everything = ["fp32", "tf32", "fp16", "bf16"] if on_gpu else ["fp32", *["bf16"] * cpu_has_bf16()]
    if not on_gpu and not cpu_has_bf16():
        click.echo("this CPU has no bf16 instructions: bf16 not measured")
    numbers = precision.split(",") if precision else everything
    wanted = [(one, number, flag) for one in arch.split(",") for number in numbers for flag in compiled.split(",")]
    if quick:
        wanted = [("demo", "fp32", "0")]
    rows, seen = [], {}
    click.echo("| network | precision | compiled | batch | " + " | ".join(COLUMNS.values()) + " |")
    click.echo("|" + "---|" * (4 + len(COLUMNS)))
    for name, number, flag in wanted:
        flags = [f"--arch={name}", f"--precision={number}"]
        size = [f"--batch={batch}"] if batch else []
        row = child(
            "benchmarks.throughput", *flags, f"--compile={flag}", f"--repeats={repeats}", f"--device={device}", *size
        )
        if row is None:
            continue
        counted = "bf16" if number in ("bf16", "fp16") else "fp32"
        if (name, counted) not in seen:
            seen[name, counted] = child("benchmarks.counts", f"--arch={name}", f"--precision={counted}") or {}
        rows.append({**row, **seen[name, counted]})
        cells = [name, number, flag, str(row["batch"]), *(cell(rows[-1].get(column)) for column in COLUMNS)]
        click.echo("| " + " | ".join(cells) + " |")
        out.write_text(json.dumps({"machine": about, "seconds": time.monotonic() - began, "rows": rows}, indent=1))
    click.echo(f"{out}: {len(rows)} rows in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    cli.run(main)
