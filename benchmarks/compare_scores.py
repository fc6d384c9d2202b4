"""Scores of the runs of `compare_losses.py`: held-out loss, distance, a table, curves and samples.

    python benchmarks/compare_scores.py --out=OUT [--kimg=10,20]       (needs matplotlib for the curves)

Per snapshot, all with the same random numbers: DSM per element on the images kept apart; the consistency term per
element on 500 of them; the Fréchet distance of 500 samples to the training set, in random features.
"""

import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.compare_losses import LOSSES, call  # noqa: E402
from elucid.dnnlib import cli  # noqa: E402
from elucid.dnnlib.files import atomic_write  # noqa: E402
from elucid.training.data.dataset import open_dataset  # noqa: E402
from elucid.training.losses.consistency import ConsistencyLoss  # noqa: E402
from elucid.training.registry.components import make  # noqa: E402
from elucid.training.snapshots.snapshot import load_snapshot  # noqa: E402
from elucid.training.types import Batch, Step  # noqa: E402

SAMPLES, STEPS, BATCH = 500, 10, 50
MEASURES = {"frechet": "Fréchet distance", "dsm": "held-out DSM", "consistency": "held-out consistency term"}


@torch.no_grad()
def held_out(snapshot: Path, test: Path) -> dict[str, float]:
    """DSM and consistency term per element of the averaged weights, with levels and noise fixed by a seed."""
    denoiser = load_snapshot(snapshot).ema.eval()
    data = open_dataset(test, use_labels=True)
    dsm, both, step = make("edm", "loss"), ConsistencyLoss(make("edm", "loss")), Step(0, 0, 1, 0, BATCH)
    values = {"dsm": [], "consistency": []}
    torch.manual_seed(0)
    order = np.random.default_rng(0).permutation(len(data))
    for start in range(0, len(data), BATCH):
        part = order[start : start + BATCH]
        images = torch.from_numpy(np.stack([data.image(i) for i in part])).float() / 127.5 - 1
        labels = torch.from_numpy(np.stack([data.label(i) for i in part]))
        batch = Batch(images, {"labels": labels})
        values["dsm"] += dsm(denoiser, batch, step).terms["loss"].tolist()
        if start < SAMPLES:
            values["consistency"] += both(denoiser, batch, step).terms["consistency"].tolist()
    return {name: statistics.fmean(numbers) for name, numbers in values.items()}


def frechet(out: Path, *images: str) -> float:
    """What fid.py says of images or of a network."""
    flags = ["calc", *images, f"--ref={out / 'random.npz'}", "--device=cpu"]
    done = subprocess.run([sys.executable, str(ROOT / "fid.py"), *flags], check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def score(snapshot: Path, out: Path) -> dict[str, float]:
    """All scores of a snapshot, from the file beside it where it was scored before."""
    path = snapshot.with_suffix(".scores.json")
    if not path.exists():
        torch.set_num_threads(1)
        scores = held_out(snapshot, out / "test.zip")
        scores["frechet"] = frechet(out, f"--network={snapshot}", f"--seeds=0-{SAMPLES - 1}", f"--steps={STEPS}")
        with atomic_write(path) as file:
            file.write(json.dumps(scores).encode())
        print(f"{snapshot}: {scores}", flush=True)
    return json.loads(path.read_text())


def run_folders(out: Path, name: str) -> list[Path]:
    return sorted(path / "run" for path in out.glob(f"{name}-*") if (path / "done").exists())


def loss_curve(run: Path, name: str) -> tuple[list[float], list[float], float]:
    """kimg, DSM per element (of CDM its own term), and seconds of training per kimg."""
    rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
    term = "Loss/dsm" if name == "cdm" else "Loss/loss"
    seconds = rows[-1]["Timing/total_sec"]["mean"] / rows[-1]["Progress/kimg"]["mean"]
    return [row["Progress/kimg"]["mean"] for row in rows], [row[term]["mean"] for row in rows], seconds


def table(scores: dict[tuple[str, float], list[dict]], measure: str) -> str:
    """Markdown: mean and standard deviation over seeds, and each seed."""
    lines = [f"| {MEASURES[measure]} | kimg | mean | sd | each seed |", "|---|---|---|---|---|"]
    for (name, kimg), found in scores.items():
        values = [scores[measure] for scores in found]
        spread = f"{statistics.stdev(values):.4g}" if len(values) > 1 else ""
        each = ", ".join(f"{value:.4g}" for value in values)
        lines.append(f"| {name} | {kimg:g} | {statistics.fmean(values):.4g} | {spread} | {each} |")
    return "\n".join(lines)


def draw_curves(out: Path, scores: dict[tuple[str, float], list[dict]], path: Path) -> None:
    """Training loss and Fréchet distance against images seen, one line a seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for colour, name in zip(("tab:blue", "tab:orange", "tab:green"), LOSSES, strict=True):
        for index, run in enumerate(run_folders(out, name)):
            kimg, loss, _ = loss_curve(run, name)
            axes[0].plot(kimg, loss, color=colour, alpha=0.7, label=None if index else name)
        counts = [kimg for other, kimg in scores if other == name]
        if not counts:
            continue
        distances = np.array([[one["frechet"] for one in scores[name, kimg]] for kimg in counts])
        axes[1].plot(counts, distances.mean(1), color=colour, label=name)
        axes[1].plot(np.repeat(counts, distances.shape[1]), distances.ravel(), ".", color=colour)
    axes[0].set(xlabel="thousand images seen", ylabel="DSM per element in training", yscale="log")
    axes[1].set(xlabel="thousand images seen", ylabel="Fréchet distance, random features")
    for axis in axes:
        axis.legend()
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def draw_samples(snapshots: dict[str, Path], out: Path, path: Path) -> None:
    """The first 36 seeds of one run of each loss, side by side."""
    grids = []
    for name, snapshot in snapshots.items():
        grid = out / f"{name}.png"
        call(
            "generate.py",
            f"--network={snapshot}",
            "--seeds=0-35",
            "--steps=18",
            f"--grid={grid}",
            f"--outdir={out / name}",
        )
        grids.append(np.asarray(Image.open(grid).convert("RGB")))
    gap = np.full((grids[0].shape[0], 8, 3), 255, dtype=np.uint8)
    Image.fromarray(np.concatenate([part for grid in grids for part in (grid, gap)][:-1], axis=1)).save(path)


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--kimg", type=cli.NumberList(int), default="20", show_default=True, help="Snapshots to score.")
@click.option("--parallel", type=click.IntRange(1), default=2, show_default=True, help="Snapshots side by side.")
def main(out: Path, kimg: list[int], parallel: int) -> None:
    """Score every finished run, print the tables, write losses.png and losses-samples.png."""
    if not (out / "random.npz").exists():
        call("fid.py", "ref", f"--data={out / 'train.zip'}", f"--dest={out / 'random.npz'}", "--detector=random")
    paths = {
        (name, count): [run / f"network-snapshot-{count:06d}.pkl" for run in run_folders(out, name)]
        for name in LOSSES
        for count in kimg
    }
    with ThreadPoolExecutor(parallel) as pool:
        futures = {key: [pool.submit(score, path, out) for path in found] for key, found in paths.items()}
        scores = {key: [future.result() for future in found] for key, found in futures.items() if found}
    for measure in MEASURES:
        print(table(scores, measure), end="\n\n")
    floor = frechet(out, f"--images={out / 'test.zip'}", f"--num={SAMPLES}")
    print(f"Fréchet distance of {SAMPLES} real images kept apart: {floor:.4g}")
    for name in LOSSES:
        times = [f"{loss_curve(run, name)[2]:.3g}" for run in run_folders(out, name)]
        print(f"{name}: seconds per thousand images: {', '.join(times)}")
    draw_curves(out, scores, out / "losses.png")
    draw_samples(
        {name: paths[name, max(kimg)][0] for name in LOSSES if paths[name, max(kimg)]}, out, out / "losses-samples.png"
    )


if __name__ == "__main__":
    cli.run(main)
