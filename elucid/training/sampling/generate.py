"""Seeds to uint8 images: draw, sample, decode. Used by generate.py, fid.py and the training loop's sample grid."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.rng import PerSeedRandom
from elucid.training.preconds.base import Denoiser
from elucid.training.samplers.base import BoundDenoiser, Sampler, state_dtype
from elucid.training.samplers.edm import EDMSampler

CPU_BLOCK = 4
"""Images per pass on the CPU: more would be little faster, and one much slower with small networks."""


@dataclass
class Samples:
    """Images u8[B,C,H,W] (C 1 for gray, else 3) of the seeds, and the class [B] of each where the model has classes."""

    seeds: list[int]
    images: Tensor
    labels: Tensor | None


def generate(
    denoiser: Denoiser,
    encoder,
    seeds: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    sampler: Sampler | None = None,
    batch_size: int = 64,
    class_idx: int | None = None,
) -> Iterator[Samples]:
    """Images of the seeds in order, at most `batch_size` at a time; the class is drawn unless `class_idx` gives it.

    The denoiser stands on `device`, in evaluation mode. On the CPU an image depends on its seed alone, to the byte,
    because every pass is of `CPU_BLOCK` images and one thread; elsewhere kernels round by batch, by one level at most.
    Raises UserError if the class is out of range or the model has none.
    """
    check_class(denoiser.spec.label_dim, class_idx)
    device, sampler = torch.device(device), sampler or EDMSampler()
    sigmas = sampler.sigmas(BoundDenoiser(denoiser))
    make = partial(_sample, denoiser, encoder, sampler, sigmas, device, class_idx)
    if device.type == "cpu":
        blocks = _side_by_side(partial(_padded, make, CPU_BLOCK), list(_cut(seeds, CPU_BLOCK)))
        return _regrouped(blocks, batch_size)
    return (make(part) for part in _cut(seeds, batch_size))


def check_class(label_dim: int, class_idx: int | None) -> None:
    """Raise UserError if the model has no such class."""
    if class_idx is None:
        return
    if not label_dim:
        raise UserError(f"--class={class_idx}: the model was trained without classes; leave --class out")
    if not 0 <= class_idx < label_dim:
        raise UserError(f"--class={class_idx} is out of range; the model has the classes 0 to {label_dim - 1}")


def draw(spec, random: PerSeedRandom, class_idx: int | None = None) -> tuple[Tensor, Tensor | None]:
    """First draws of each seed: latents [B,C,H,W], then the class [B] or None.

    A class is drawn even where `class_idx` replaces it, so that the noise of later steps is the same.
    """
    latents = random.randn(spec.sample_shape)
    if not spec.label_dim:
        return latents, None
    labels = random.randint(spec.label_dim)
    return latents, labels if class_idx is None else torch.full_like(labels, class_idx)


@torch.no_grad()  # here and not in `generate`: the mode belongs to the thread
def _sample(denoiser, encoder, sampler, sigmas: Tensor, device, class_idx: int | None, seeds: Sequence[int]) -> Samples:
    spec, random = denoiser.spec, PerSeedRandom(seeds, device)
    latents, labels = draw(spec, random, class_idx)
    cond = {} if labels is None else {"labels": F.one_hot(labels, spec.label_dim).to(torch.float32)}
    x = latents.to(state_dtype(device)) * sigmas[0].item()
    x = sampler(BoundDenoiser(denoiser, cond), x, sigmas, random.randn_like)
    images = encoder.decode(x)
    return Samples(list(seeds), images[:, :1] if spec.image_channels == 1 and not spec.latent else images, labels)


def _padded(make: Callable[[list[int]], Samples], size: int, seeds: Sequence[int]) -> Samples:
    """Samples of fewer seeds than `size`, made among others, which are thrown away."""
    count = len(seeds)
    samples = make([*seeds, *[seeds[-1]] * (size - count)])
    labels = samples.labels[:count] if samples.labels is not None else None
    return Samples(list(seeds), samples.images[:count], labels)


def _cut(items: Sequence, size: int) -> Iterator[Sequence]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _side_by_side(function: Callable, items: list) -> Iterator:
    """function(item) of each item in order, in as many threads as torch uses, each of which uses only itself.

    How torch shares a convolution among threads changes its rounding; sharing whole blocks does not.
    """
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))
    running, finished = deque(), False
    try:
        for item in items:
            running.append(pool.submit(function, item))
            if len(running) > 2 * threads:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
        finished = True
    finally:
        # Whoever stops early, by Ctrl-C above all, does not wait for blocks that nobody will see.
        pool.shutdown(wait=finished, cancel_futures=True)
        torch.set_num_threads(threads)


def _regrouped(parts: Iterable[Samples], size: int) -> Iterator[Samples]:
    """The same samples, joined to about `size` images at a time."""
    waiting: list[Samples] = []
    for part in parts:
        if waiting and sum(len(samples.seeds) for samples in waiting) + len(part.seeds) > size:
            yield _joined(waiting)
            waiting = []
        waiting.append(part)
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[Samples]) -> Samples:
    labels = None if parts[0].labels is None else torch.cat([part.labels for part in parts])
    return Samples([seed for part in parts for seed in part.seeds], torch.cat([part.images for part in parts]), labels)
