"""Magnitudes of the activations behind each block of a network, untrained and trained, as a table and a chart.

    python -m benchmarks.magnitudes --network=RUN --data=images.zip --dest=magnitudes.svg

A magnitude is the root of the mean square. Input: images of the data set with noise of the levels that training draws.
"""

from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn

from elucid.dnnlib import cli
from elucid.dnnlib.config import construct
from elucid.evaluation.charts import drawing
from elucid.evaluation.results import Curve, Series, Table
from elucid.training.data.dataset import open_dataset
from elucid.training.networks.regions import regions
from elucid.training.preconds.base import Denoiser
from elucid.training.snapshots.snapshot import load_snapshot

IMAGES = 64


def noisy_input(denoiser: Denoiser, data: str) -> tuple[Tensor, Tensor, dict]:
    dataset = open_dataset(data, use_labels=bool(denoiser.spec.label_dim))
    chosen = np.random.default_rng(0).permutation(len(dataset))[:IMAGES]
    images = torch.from_numpy(np.stack([dataset.image(i) for i in chosen])).float() / 127.5 - 1
    labels = torch.from_numpy(np.stack([dataset.label(i) for i in chosen]))
    torch.manual_seed(0)
    sigma = (torch.randn(len(images), 1, 1, 1) * 1.2 - 1.2).exp()
    return images + sigma * torch.randn_like(images), sigma, {"labels": labels} if labels.shape[1] else {}


@torch.no_grad()
def magnitudes(denoiser: Denoiser, inputs: tuple) -> list[float]:
    """The magnitude behind each block, in the order in which blocks compute."""
    found: list[float] = []

    def note(module: nn.Module, args: tuple, out: Tensor) -> None:
        found.append(out.float().square().mean().sqrt().item())

    with ExitStack() as stack:
        for block in regions(denoiser.model):
            stack.callback(block.register_forward_hook(note).remove)
        denoiser.eval()(*inputs)
    return found


@click.command()
@click.option("--network", required=True, multiple=True, help="Run or snapshot; may be repeated.")
@click.option("--data", required=True, help="Its data set.")
@click.option("--dest", type=click.Path(path_type=Path), help="Chart to write, .svg.")
def main(network: tuple[str, ...], data: str, dest: Path | None) -> None:
    """Print and draw the magnitudes."""
    lines: dict[str, list[float]] = {}
    for path in network:
        snapshot = load_snapshot(path)
        trained, name = snapshot.ema, snapshot.options["network"]["name"]
        torch.manual_seed(0)
        model = construct(type(trained.model), trained.model.config["options"])
        fresh = construct(type(trained), trained.config["options"], model=model, spec=trained.spec)
        inputs = noisy_input(trained, data)
        lines[f"{name}, untrained"] = magnitudes(fresh, inputs)
        lines[f"{name}, after {snapshot.nimg / 1000:g} kimg"] = magnitudes(trained, inputs)
    rows = [(name, len(values), min(values), max(values)) for name, values in lines.items()]
    print(Table("magnitudes behind the blocks", ("network", "blocks", "smallest", "largest"), tuple(rows)).text())
    if dest is not None:
        series = [Series(name, tuple(enumerate(values, 1))) for name, values in lines.items()]
        curve = Curve("magnitude behind each block", "block", "magnitude", tuple(series), log_y=True)
        dest.write_text(drawing(curve), encoding="utf-8")


if __name__ == "__main__":
    cli.run(main)
