"""The model card of an exported model: what it is, how it was trained and how to sample from it."""

import json
from pathlib import Path
from typing import Any

from elucid.dnnlib.errors import UserError
from elucid.evaluation.report.collect import read_run
from elucid.training.snapshots.snapshot import Snapshot
from elucid.training.types import MAPS
from elucid.version import __version__


def model_card(snapshot: Snapshot, license: str | None, folder: Path | None) -> str:
    """Return a model card in Markdown, with the header that model hubs read.

    `folder` may be the run's: its last statistics and the record of its starts are then part of the card.
    """
    spec, data = snapshot.ema.spec, snapshot.dataset
    names = [str(name) for name in data.get("class_names") or []]
    header = ["---", "library_name: elucid", "pipeline_tag: unconditional-image-generation"]
    header += [f"license: {_one_line(license)}"] if license else []
    header += ["tags:", "- diffusion", "---", ""]
    height, width = spec.resolution
    kind = " (latents)" if spec.latent else " (arrays, in the data's own units)" if spec.arrays else ""
    size = f"{spec.image_channels} channels of {height}x{width}{kind}"
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
    shape = "[16, C, H, W], in the data's own units" if spec.arrays else "u8[16, C, H, W]"
    needed = [f'{name}="PATH"' for name, takes in (("cond_images", MAPS in spec.spatial),
                                                  ("cond_labels", data.get("vector_labels"))) if takes]  # fmt: skip
    lines += [f"images = model.sample({', '.join(['seeds=range(16)', *needed])})  # {shape}", "```", ""]
    lines += _run(folder)
    lines += ["## Training options", "", "```json", json.dumps(snapshot.options, indent=1), "```", ""]
    return "\n".join(lines)


def _run(folder: Path | None) -> list[str]:
    """Return sections on scores and environment of a run's folder, as far as it has them."""
    try:
        run = read_run(folder, "run") if folder is not None else None
    except UserError:  # the folder of a snapshot without its run
        run = None
    if run is None:
        return []
    last = {name: one.last for name, one in run.stats.items() if name.startswith(("Eval/", "Loss/"))}
    lines = ["## Last statistics", "", "| | |", "|---|---|"] if last else []
    lines += [*(f"| {_cell(name)} | {value:.5g} |" for name, value in last.items()), *([""] if last else [])]
    if run.starts:
        known = ("command", "commit", "torch", "device", "processes", "started", "ended")
        start = run.starts[-1]
        lines += ["## Environment", "", "| | |", "|---|---|"]
        lines += [*(f"| {name} | {_cell(start[name])} |" for name in known if start.get(name)), ""]
    return lines


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cell(value: Any) -> str:
    """Return a value as the cell of a table, in which the text cannot end the cell or start a tag."""
    return _one_line(str(value)).replace("|", "\\|").replace("<", "&lt;")
