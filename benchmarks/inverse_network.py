"""Methods for inverse problems with a network: held-out digits, and how well samples tell what was not measured.

    python benchmarks/inverse_network.py --network=RUN --data=digits-test.zip [--operators=blur:1] [--count=10]

Each image is measured with Gaussian noise; RUN samples it `members` times, told its class. Error is the root mean
square of the samples' mean from the truth, in gray levels, spread that of their deviation, coverage how often the truth
of a pixel is in its 90 % interval, residual the root mean square of y - A u of the samples, over the noise.
"""

import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from elucid.dnnlib import cli  # noqa: E402
from elucid.dnnlib.progress import progress_bar  # noqa: E402
from elucid.training.data.dataset import open_dataset  # noqa: E402
from elucid.training.inverse.summary import summary  # noqa: E402
from elucid.training.noise.schedules import Karras  # noqa: E402
from elucid.training.preconds.wrapper import BoundDenoiser  # noqa: E402
from elucid.training.samplers.edm import EDMSampler  # noqa: E402
from elucid.training.sampling.inverse.posterior import posterior_denoiser  # noqa: E402
from elucid.training.snapshots.reconstruct import chosen_average  # noqa: E402

METHODS = "tmpd,pigdm,diffpir,dps,replacement"
SCALE = 127.5


def images_of(path: str, count: int) -> tuple[Tensor, Tensor]:
    """Return images float64 [count,C,H,W] in gray levels, and labels [count,D], evenly spread over a data set."""
    data = open_dataset(path, use_labels=True)
    chosen = np.linspace(0, len(data) - 1, count).round().astype(int)
    images = torch.stack([torch.from_numpy(data.image(index)) for index in chosen]).double()
    return images, torch.stack([torch.from_numpy(np.asarray(data.label(index))) for index in chosen]).float()


def row(denoiser, images: Tensor, labels: Tensor, given: dict, steps: int, churn: float, members: int) -> str:
    """Return the cells of a method: error, spread, coverage in percent, residual, seconds."""
    affine = (torch.full((images.shape[1],), SCALE),) * 2
    wrapped = posterior_denoiser(denoiser, affine, **given)
    operator, noise = wrapped.problem.operator, wrapped.problem.noise
    torch.manual_seed(0)
    y = noise.sample(operator(images)).repeat_interleave(members, 0)
    cond = {"measurement": y} | ({"labels": labels.repeat_interleave(members, 0)} if denoiser.spec.label_dim else {})
    sigmas = Karras(steps)(wrapped)
    x = torch.randn(len(y), *images.shape[1:], dtype=torch.float64) * sigmas[0]
    start = time.process_time()
    with torch.no_grad():
        found = EDMSampler(S_churn=churn)(BoundDenoiser(wrapped, cond), x, sigmas, torch.randn_like) * SCALE + SCALE
    seconds = time.process_time() - start
    told = summary(found, members)
    inside = ((told.low <= images) & (images <= told.high)).double().mean()
    measured = operator.observed(torch.ones_like(y)) != 0
    residual = (operator(found) - y)[measured].square().mean().sqrt() / noise.std
    error, spread = (one.square().mean().sqrt() for one in (told.mean - images, told.std))
    return f"{error:.1f} | {spread:.1f} | {100 * inside:.0f} % | {residual:.2f} | {seconds:.0f} s"


@click.command()
@click.option("--network", required=True, help="Snapshot or run folder.")
@click.option("--data", required=True, help="Images of the size and classes of the network.")
@click.option("--operators", default="superres:2,inpaint,blur:1", show_default=True)
@click.option("--methods", default=METHODS, show_default=True)
@click.option("--noise", type=float, default=10.0, show_default=True, help="Deviation in gray levels.")
@click.option("--steps", type=click.IntRange(1), default=18, show_default=True)
@click.option("--churn", type=float, default=0.0, show_default=True, help="S_churn.")
@click.option("--count", type=click.IntRange(1), default=10, show_default=True, help="Images.")
@click.option("--members", type=click.IntRange(19), default=19, show_default=True, help="Samples of each image.")
def main(
    network: str,
    data: str,
    operators: str,
    methods: str,
    noise: float,
    steps: int,
    churn: float,
    count: int,
    members: int,
) -> None:
    """Print the table."""
    snapshot = chosen_average(network, torch.device("cpu"), None, None, "ema_std", {})
    denoiser = snapshot.ema.eval().requires_grad_(False)
    images, labels = images_of(data, count)
    print("| operator | method | error | spread | coverage | residual | time |\n" + "|---" * 7 + "|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        mask = np.zeros(images.shape[2:], np.uint8)
        mask[:, : mask.shape[1] // 2] = 1
        np.save(f"{folder}/mask.npy", mask)
        pairs = [(text, method) for text in operators.split(",") for method in methods.split(",")]
        for text, method in progress_bar(pairs, unit="run"):
            operator = f"inpaint:{folder}/mask.npy" if text == "inpaint" else text
            posterior = f"dps,steps={steps}" if method == "dps" else method
            given = {"operator": operator, "measurement_noise": noise, "posterior": posterior}
            cells = row(denoiser, images, labels, given, steps, churn, members)
            print(f"| {text} | {method} | {cells} |", flush=True)


if __name__ == "__main__":
    cli.run(main)
