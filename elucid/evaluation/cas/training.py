"""Trains one classifier: SGD with momentum, a cosine learning rate, random crops."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elucid.evaluation.cas.networks import make_classifier

REPORT_EVERY = 20  # steps; reading a value waits for the device


@dataclass(frozen=True)
class Recipe:
    """How classifiers are trained; momentum and weight decay are those of He et al. 2016.

    `crop` is the number of black pixels around an image from which a window of its size is cut at random; `xflip`
    mirrors half of the images.
    """

    net: str
    steps: int
    batch: int
    crop: int
    xflip: bool
    lr: float
    momentum: float = 0.9
    weight_decay: float = 1e-4


def train_classifier(
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    classes: int,
    seed: int,
    device: torch.device,
    on_step: Callable[[float | None], None] = lambda accuracy: None,
) -> nn.Module:
    """Train a classifier on images u8[N,C,H,W] with class numbers i64[N]; determined by the seed on one kind of device.

    `on_step` is called after each step, sometimes with the accuracy on its batch; what it raises ends the training.
    """
    random = torch.Generator().manual_seed(seed)
    network = make_classifier(recipe.net, images.shape[1], classes, min(images.shape[2:]), seed).to(device)
    rule = {"lr": recipe.lr, "momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
    optimizer = torch.optim.SGD(network.parameters(), **rule)
    order = batches(len(images), recipe.batch, random)
    for step in range(recipe.steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        chosen = next(order)
        x = normalised(augmented(images[chosen], recipe.crop, recipe.xflip, random).to(device))
        target = labels[chosen].to(device)
        logits = network(x)
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(logits, target).backward()
        optimizer.step()
        shown = step % REPORT_EVERY == 0 or step == recipe.steps - 1
        on_step(float((logits.argmax(1) == target).double().mean()) if shown else None)
    return network.eval()


@torch.no_grad()
def classify(network: nn.Module, images: Tensor, device: torch.device, batch: int = 256) -> Tensor:
    """Return logits f64[N,classes] of images u8[N,C,H,W], on the CPU."""
    return torch.cat([network(normalised(part.to(device))).double().cpu() for part in images.split(batch)])


def batches(num: int, size: int, random: torch.Generator) -> Iterator[Tensor]:
    """Yield positions of full batches for ever: all images in random order, then all again in another one."""
    waiting = torch.empty(0, dtype=torch.int64)
    while True:
        while len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(num, generator=random)])
        yield waiting[:size]
        waiting = waiting[size:]


def augmented(images: Tensor, crop: int, xflip: bool, random: torch.Generator) -> Tensor:
    """Return each image u8[B,C,H,W] shifted by up to `crop` pixels with black behind it, and perhaps mirrored."""
    count, _, height, width = images.shape
    top, left = torch.randint(2 * crop + 1, (2, count, 1), generator=random)
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    if xflip:
        mirrored = torch.rand(count, 1, generator=random) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images, (crop, crop, crop, crop)).movedim(1, 3)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]].movedim(3, 1).contiguous()


def normalised(images: Tensor) -> Tensor:
    """Return u8 images as f32 in [-1, 1]."""
    return images.float() / 127.5 - 1
