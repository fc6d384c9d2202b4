"""The model card of an exported model: what it is, how it was trained and how to sample from it."""

import json
from pathlib import Path
from typing import Any

from elucid.training.snapshots.snapshot import Snapshot
from elucid.version import __version__


def model_card(snapshot: Snapshot, license: str | None, folder: Path | None) -> str:
    """Return a model card in Markdown, with the header that model hubs read.

    `folder` may be the run's: the last line of its statistics and the record of its starts are then part of the card.
    """
    spec, data = snapshot.ema.spec, snapshot.dataset
    names = [str(name) for name in data.get("class_names") or []]
    header = ["---", "library_name: elucid", "pipeline_tag: unconditional-image-generation"]
    header += [f"license: {_one_line(license)}"] if license else []
    header += ["tags:", "- diffusion", "---", ""]
    height, width = spec.resolution
    size = f"{spec.image_channels} channels of {height}x{width}{' (latents)' if spec.latent else ''}"
    count = sum(parameter.numel() for parameter in snapshot.ema.parameters())
    facts = {
        "samples": size,
        "classes": f"{spec.label_dim}{': ' + ', '.join(names[:20]) if names else ''}" if spec.label_dim else "none",
        "data set": f"{data.get('name', 'unknown')}, {data.get('num_images', 'an unknown number of')} images",
        "network": f"{type(snapshot.ema.model).__name__}, {count:,} parameters",
        "preconditioning": type(snapshot.ema).__name__,
        "averages": ", ".join(snapshot.emas),
        "trained on": f"{snapshot.nimg:,} images",
        "licence of the weights": license or "not stated",
        "written by": f"Elucid {__version__}",
    }
    lines = [*header, f"# {_one_line(str(data.get('name', 'A diffusion model')))}", ""]
    lines += ["| | |", "|---|---|", *(f"| {key} | {_cell(value)} |" for key, value in facts.items()), ""]
    lines += ["## Use", "", "```python", "import elucid", "", 'model = elucid.load("THIS FOLDER")']
    lines += ["images = model.sample(seeds=range(16))  # u8[16, C, H, W]", "```", ""]
    lines += _run(folder)
    lines += ["## Training options", "", "```json", json.dumps(snapshot.options, indent=1), "```", ""]
    return "\n".join(lines)


def _run(folder: Path | None) -> list[str]:
    """Return sections on scores and environment of a run's folder, as far as it has them."""
    lines: list[str] = []
    last = _last_line(folder / "stats.jsonl") if folder is not None else {}
    scores = {name: value["mean"] for name, value in last.items() if name.startswith(("Eval/", "Loss/"))}
    if scores:
        lines += ["## Last statistics", "", "| | |", "|---|---|"]
        lines += [*(f"| {_cell(name)} | {value:.5g} |" for name, value in scores.items() if value is not None), ""]
    starts = _json(folder / "run.json") if folder is not None else None
    if isinstance(starts, list) and starts and isinstance(starts[-1], dict):
        known = ("command", "commit", "torch", "device", "processes", "started", "ended")
        lines += ["## Environment", "", "| | |", "|---|---|"]
        lines += [*(f"| {name} | {_cell(starts[-1][name])} |" for name in known if starts[-1].get(name)), ""]
    return lines


def _last_line(path: Path) -> dict[str, Any]:
    """Return the last tick of a run's statistics; empty if there are none."""
    try:
        values = json.loads(path.read_text(encoding="utf-8").splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return {}
    return {name: value for name, value in values.items() if isinstance(value, dict) and "mean" in value}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cell(value: Any) -> str:
    """Return a value as the cell of a table, in which the text cannot end the cell or start a tag."""
    return _one_line(str(value)).replace("|", "\\|").replace("<", "&lt;")
