"""The shortest complete sampling program: a snapshot in, an 8x8 grid of images out.

python example.py --model_path=network-snapshot-000200.pkl --output_path=grid.png --steps=18
"""

import click
import torch

from elucid.dnnlib import cli
from elucid.dnnlib.files import require_writable
from elucid.torch_utils.distributed import choose_device
from elucid.training.config.build import make_encoder
from elucid.training.noise.schedules import Karras
from elucid.training.sampling.generate import generate
from elucid.training.sampling.grid import save_grid
from elucid.training.snapshots.snapshot import load_snapshot


@click.command(context_settings={"show_default": True})
@click.option("--model_path", required=True, metavar="PKL|URL", help="Snapshot of train.py, or a published checkpoint.")
@click.option("--output_path", default="grid.png", metavar="PNG", help="Picture to write.")
@click.option("--steps", type=click.IntRange(min=1), default=18, help="Sampling steps.")
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1  [default: cuda if there is one, else cpu]")
def main(model_path, output_path, steps, device):
    """Draw 64 images from a snapshot."""
    require_writable(output_path)
    device = choose_device(device)
    snapshot = load_snapshot(model_path, device)  # weights, and how images are encoded: data, no code is run
    encoder = make_encoder(snapshot.encoder, device)
    schedule = Karras(num_steps=steps)
    batches = generate(snapshot.ema, encoder, seeds=range(64), device=device, schedule=schedule)
    save_grid(torch.cat([batch.images for batch in batches]), output_path, columns=8)
    print(output_path)


def run() -> None:
    """The whole program; ends the process."""
    cli.run(main)
