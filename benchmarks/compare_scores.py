"""Verdicts on the runs of `compare_losses.py` by their held-out losses, training curves and samples.

    python benchmarks/compare_scores.py --out=OUT       (needs matplotlib for the curves)

All with the same random numbers: DSM per element on the images kept apart, and the consistency term per element on 500
of them. The verdicts are those of `evaluate.py compare` with these numbers typed in.
"""

import json
import statistics
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
from elucid.api.evaluations.comparing.compare import compare  # noqa: E402
from elucid.dnnlib import cli  # noqa: E402
from elucid.dnnlib.files import atomic_write  # noqa: E402
from elucid.training.data.dataset import open_dataset  # noqa: E402
from elucid.training.losses.consistency import ConsistencyLoss  # noqa: E402
from elucid.training.registry.components import make  # noqa: E402
from elucid.training.snapshots.snapshot import load_snapshot  # noqa: E402
from elucid.training.types import Batch, Step  # noqa: E402

SAMPLES, BATCH = 500, 50
MEASURES = {"dsm": "held-out DSM", "consistency": "held-out consistency term"}


@torch.no_grad()
def held_out(run: Path, test: Path) -> dict[str, float]:
    """DSM and consistency term per element of the averaged weights, with levels and noise fixed by a seed."""
    denoiser = load_snapshot(run).ema.eval()
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


def score(run: Path, out: Path) -> dict[str, float]:
    """The losses of a run, from the file beside it where it was scored before."""
    path = run.parent / "held-out.json"
    if not path.exists():
        torch.set_num_threads(1)
        with atomic_write(path) as file:
            file.write(json.dumps(held_out(run, out / "test.zip")).encode())
        print(f"{run}: {path.read_text()}", flush=True)
    return json.loads(path.read_text())


def runs(out: Path, name: str) -> list[Path]:
    """The finished trainings of a loss."""
    return sorted(path.parent / "run" for path in (out / "cmp" / name).glob("seed-*/trained.json"))


def draw_curves(out: Path, path: Path) -> None:
    """Training loss against images seen, one line a seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4), constrained_layout=True)
    for colour, name in zip(("tab:blue", "tab:orange", "tab:green"), LOSSES, strict=True):
        for index, run in enumerate(runs(out, name)):
            rows = [json.loads(line) for line in (run / "stats.jsonl").read_text().splitlines()]
            term = "Loss/dsm" if name == "cdm" else "Loss/loss"
            kimg, loss = ([row[key]["mean"] for row in rows] for key in ("Progress/kimg", term))
            axis.plot(kimg, loss, color=colour, alpha=0.7, label=None if index else name)
    axis.set(xlabel="thousand images seen", ylabel="DSM per element in training", yscale="log")
    axis.legend()
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def draw_samples(out: Path, path: Path) -> None:
    """The first 36 seeds of one run of each loss, side by side."""
    grids = []
    for name in LOSSES:
        grid, network = out / f"{name}.png", f"--network={runs(out, name)[0]}"
        call("generate.py", network, "--seeds=0-35", "--steps=18", f"--grid={grid}", f"--outdir={out / name}")
        grids.append(np.asarray(Image.open(grid).convert("RGB")))
    gap = np.full((grids[0].shape[0], 8, 3), 255, dtype=np.uint8)
    Image.fromarray(np.concatenate([part for grid in grids for part in (grid, gap)][:-1], axis=1)).save(path)


@click.command()
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--parallel", type=click.IntRange(1), default=2, show_default=True, help="Runs side by side.")
def main(out: Path, parallel: int) -> None:
    """Score every finished run, print the verdicts, write losses.png and losses-samples.png."""
    with ThreadPoolExecutor(parallel) as pool:
        found = {name: list(pool.map(lambda run: score(run, out), runs(out, name))) for name in LOSSES}
    for measure, title in MEASURES.items():
        typed = [f"{name}: {','.join(str(one[measure]) for one in of)}" for name, of in found.items()]
        print(f"\n{title}, as if it were a distance: lower is better\n{compare(scores=typed).text()}")
    draw_curves(out, out / "losses.png")
    draw_samples(out, out / "losses-samples.png")


if __name__ == "__main__":
    cli.run(main)
