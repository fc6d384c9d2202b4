"""Trains a small AutoencoderKL of diffusers on small pictures, so that latents can be tried without a download.

    python -m benchmarks.small_vae --data=images.zip --out=vae [--picture=vae.png]       (needs the extra `latents`)

The loss is the mean squared error of pixels in [-1, 1] plus `--kl` times the divergence of the posterior from a unit
normal distribution (Kingma & Welling 2014, arXiv 1312.6114), both as means over their numbers. There is neither a
discriminator nor a perceptual loss, so pictures come out a little soft. Of the images, evenly spread ones are held out;
of them it prints the PSNR of pixels 0 to 255 through the encoder `vae`, and the divergence. The factor in the config is
one over the deviation of their latents, as in Rombach et al. 2022 (arXiv 2112.10752).
"""

import math
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor, nn

from elucid.dnnlib import cli
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import write_output
from elucid.dnnlib.progress import progress_bar
from elucid.training.data.dataset import ImageDataset, open_dataset
from elucid.training.encoders.rgb import RGB
from elucid.training.encoders.vae import VAE
from elucid.training.sampling.output.grid import enlarged_grid, png

PICTURES = 16
"""Held-out images in the picture, above their reconstructions."""


def make_autoencoder(widths: list[int], channels: int, image_size: int) -> nn.Module:
    """Create an AutoencoderKL with random weights whose latents are 2^(len(widths) - 1) times smaller."""
    try:
        from diffusers import AutoencoderKL
    except (ImportError, RuntimeError) as error:
        raise UserError(f"this needs the package diffusers ({error}); install it: pip install .[latents]") from error
    stages = len(widths)
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * stages,
        up_block_types=("UpDecoderBlock2D",) * stages,
        layers_per_block=1,
        norm_num_groups=math.gcd(*widths, 8),
        latent_channels=channels,
        sample_size=image_size,
        mid_block_add_attention=False,
    )


def divergence(posterior) -> Tensor:
    """KL(N(mean, std^2) || N(0, 1)) of each latent number [B,C,h,w], in nats."""
    return 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar)


def read(dataset: ImageDataset, indices: np.ndarray) -> Tensor:
    """Return images u8[B,3,H,W]; gray ones are repeated."""
    images = torch.from_numpy(np.stack([dataset.image(int(index)) for index in indices]))
    return images.expand(-1, 3, -1, -1)


def batches(indices: np.ndarray, size: int, count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield `count` images in batches, each epoch in another order."""
    rng = np.random.default_rng(seed)
    order = np.empty(0, dtype=np.int64)
    for start in range(0, count, size):
        wanted = min(size, count - start)
        while len(order) < wanted:
            order = np.concatenate([order, rng.permutation(indices)])
        yield order[:wanted]
        order = order[wanted:]


def train(model: nn.Module, dataset: ImageDataset, indices: np.ndarray, given: dict) -> None:
    """Train with Adam on random mirror images; the learning rate falls to zero along a half cosine."""
    device, count = given["device"], round(given["kimg"] * 1000)
    model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=given["lr"], betas=(0.9, 0.99))
    done = 0
    with progress_bar(total=count, desc="training") as bar:
        for part in batches(indices, given["batch"], count, given["seed"]):
            for group in optimizer.param_groups:  # a hundred steps of warm-up
                warm = min(1, (done / given["batch"] + 1) / 100)
                group["lr"] = given["lr"] * warm * (1 + math.cos(math.pi * done / count)) / 2
            images = RGB().encode(read(dataset, part)).to(device, memory_format=torch.channels_last)
            mirrored = torch.rand(len(images), 1, 1, 1, device=device) < 0.5
            images = torch.where(mirrored, images.flip(3), images)
            posterior = model.encode(images).latent_dist
            error = (model.decode(posterior.sample()).sample - images).square().mean()
            kl = divergence(posterior).mean()
            optimizer.zero_grad(set_to_none=True)
            (error + given["kl"] * kl).backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            if not torch.isfinite(norm):
                raise UserError(f"the loss is not finite after {done} images; give a lower `lr` than {given['lr']:g}")
            optimizer.step()
            done += len(images)
            bar.set_postfix_str(f"error {error.item():.4f}, KL {kl.item():.2f}", refresh=False)
            bar.update(len(images))


@torch.no_grad()
def measure(vae: VAE, images: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Return reconstructions u8[N,3,H,W] of samples of the posterior, and PSNR (dB), KL (nats) and deviation."""
    error, kl, again, numbers = [], [], [], []
    for part in images.split(64):
        moments = vae.moments(part)
        mean, std = moments.chunk(2, dim=1)
        kl.append((0.5 * (mean**2 + std**2 - 1) - std.log()).sum((1, 2, 3)))
        latents = vae.encode(moments)
        again.append(vae.decode(latents))
        numbers.append(latents)
        error.append((again[-1].double() - part.double()).square().mean((1, 2, 3)))
    error, latents = torch.cat(error), torch.cat(numbers)
    psnr = (10 * torch.log10(255**2 / error.clamp_min(1e-3))).mean()
    kl = torch.cat(kl).mean()
    return torch.cat(again), {"psnr": psnr.item(), "kl": kl.item(), "std": latents.std().item()}


@click.command()
@click.option("--data", required=True, help="Data set of images: .zip or folder, as train.py takes it.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder of the autoencoder.")
@click.option("--images", type=cli.Count(), default=20_000, show_default=True, help="Use only so many images.")
@click.option("--held-out", type=cli.Count(), default=1_000, show_default=True, help="Of them for the PSNR only.")
@click.option("--kimg", type=cli.FloatRange(min=0, min_open=True), default=60, show_default=True, help="Duration.")
@click.option("--channels", type=cli.Count(), default=4, show_default=True, help="Channels of the latents.")
@click.option("--widths", default="32,64,64", show_default=True, help="One per resolution, each half the one before.")
@click.option("--kl", type=cli.FloatRange(min=0), default=1e-4, show_default=True, help="Weight of the divergence.")
@click.option("--lr", type=cli.FloatRange(min=0, min_open=True), default=1e-3, show_default=True)
@click.option("--batch", type=cli.Count(), default=32, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--picture", type=click.Path(path_type=Path), help="PNG of held-out images above reconstructions.")
def main(data: str, out: Path, images: int, held_out: int, picture: Path | None, **given) -> None:
    """Train a small AutoencoderKL and print what it loses."""
    if out.exists():
        raise UserError(f"`out`={out} exists; give another name")
    widths = [int(one) if one.isdecimal() else 0 for one in given["widths"].split(",")]
    if min(widths) < 1:
        raise UserError(f"`widths`={given['widths']} must be whole numbers above 0, as 32,64,64")
    dataset, factor = open_dataset(data), 2 ** (len(widths) - 1)
    if any(side % factor for side in dataset.resolution):
        width, height = reversed(dataset.resolution)
        raise UserError(
            f"`widths` of {len(widths)} make images {factor} times smaller, which does not divide "
            f"{width}x{height}; give fewer"
        )
    count = min(images, len(dataset))
    if held_out >= count:
        raise UserError(f"`held_out`={held_out} leaves none of {count} images to train on; give less")
    torch.manual_seed(given["seed"])
    chosen = np.linspace(0, len(dataset) - 1, count).astype(int)
    tested = np.linspace(0, count - 1, held_out).astype(int)
    model = make_autoencoder(widths, given["channels"], max(dataset.resolution))
    train(model, dataset, np.delete(chosen, tested), given)
    model.to("cpu", memory_format=torch.contiguous_format).eval().save_pretrained(out)
    shown = read(dataset, chosen[tested])
    _, found = measure(VAE(str(out), scale=1.0, batch_size=64).to(given["device"]), shown.to(given["device"]))
    model.register_to_config(scaling_factor=round(1 / found["std"], 5))
    model.save_config(out)
    vae = VAE(str(out), batch_size=64).to(given["device"])
    again, found = measure(vae, shown.to(given["device"]))
    channels, height, width = vae.latent_shape(3, dataset.resolution)
    parameters = sum(one.numel() for one in model.parameters())
    click.echo(f"{parameters:,} parameters, latents of {width}x{height}, {channels} channels, factor {vae.scale:g}")
    click.echo(
        f"{held_out} held-out images: PSNR {found['psnr']:.2f} dB, KL {found['kl']:.1f} nats per image "
        f"({found['kl'] / (channels * height * width):.2f} per number)"
    )
    if picture is not None:
        few = [one[:: math.ceil(len(one) / PICTURES)].cpu() for one in (shown, again)]
        with write_output(picture) as file:
            file.write(png(enlarged_grid(torch.cat(few), columns=len(few[0]))))
    click.echo(f"written: {out}")


if __name__ == "__main__":
    cli.run(main)
