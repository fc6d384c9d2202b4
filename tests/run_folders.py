"""Run folders as training leaves them, written without training."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

OPTIONS = {
    "dataset": {"path": "data.zip", "reader": None, "use_labels": True},
    "loss": {"name": "edm", "noise": {"name": "lognormal", "P_mean": -1.2}},
    "loop": {"batch_size": 32, "duration_mimg": 0.004, "seed": 1},
}
START = {"command": "train.py --preset=demo", "elucid": "0.2.0", "host": "somewhere", "device": "cpu", "torch": "2"}
START |= {"started": "2026-01-01T10:00:00+00:00", "ended": "2026-01-01T10:05:00+00:00", "from_nimg": 0, "nimg": 4000}


def line(kimg: float, **values: float | None) -> str:
    """A line of stats.jsonl; `Loss_loss` is Loss/loss."""
    all_of_them = {"Progress_kimg": kimg, "Timing_total_sec": 10 * kimg, "Timing_images_per_sec": 100.0, **values}
    return json.dumps(
        {name.replace("_", "/", 1): {"num": 1, "mean": one, "std": 0} for name, one in all_of_them.items()}
    )


def write_run(folder: Path, options: dict | None = None, losses=(1.0, 0.5, 0.25, 0.2), **stats) -> Path:
    """Write a run of a tick for each of `losses` and a sample grid every second tick; `stats` are further values."""
    folder.mkdir(parents=True)
    (folder / "training_options.json").write_text(json.dumps({**OPTIONS, **(options or {})}))
    (folder / "run.json").write_text(json.dumps([START]))
    lines = [
        line(tick + 1, Loss_loss=loss, **{name: values[tick] for name, values in stats.items()})
        for tick, loss in enumerate(losses)
    ]
    (folder / "stats.jsonl").write_text("\n".join(lines) + "\n")
    for tick in range(1, len(losses), 2):
        grid = np.full((32, 32), 20 * tick % 256, dtype=np.uint8)
        Image.fromarray(grid).save(folder / f"samples-{tick + 1:06d}.png")
    return folder
