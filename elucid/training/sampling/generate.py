"""Generates images from seeds, or arrays. Used by generate.py, fid.py and the sample grid during training."""

import operator
from collections.abc import Callable, Generator, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.graphs.recording import recorded
from elucid.torch_utils.rng import PerSeedRandom
from elucid.torch_utils.weights.working import working_weights
from elucid.training.encoders.base import Encoder
from elucid.training.noise.schedules import Karras, Schedule
from elucid.training.preconds.base import Preconditioned
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.samplers.base import Callback, Sampler, levels_for, state_dtype
from elucid.training.samplers.edm import EDMSampler
from elucid.training.sampling.classes import class_numbers
from elucid.training.sampling.conditions.given import GivenConditions
from elucid.training.sampling.conditions.lowres import LowResImages
from elucid.training.sampling.cpu_blocks import Samples, block_size, chunks, in_blocks
from elucid.training.transforms import lowres as condition

UPSAMPLING = 0x9E3779B9
"""Added to the seed of a model that enlarges images."""


def generate(
    denoiser,
    encoder: Encoder,
    seeds: Sequence[int],
    *,
    device: torch.device | str = "cpu",
    sampler: Sampler | None = None,
    schedule: Schedule | None = None,
    batch_size: int = 64,
    classes: int | Sequence[int] | None = None,
    steps: int | None = None,
    callback: Callback | None = None,
    lowres: LowResImages | None = None,
    given: GivenConditions | None = None,
    noise: str = "device",
) -> Generator[Samples, None, None]:
    """Yield images of the seeds in order, at most `batch_size` at a time.

    Classes are drawn at random unless `classes` gives one number for all or one per seed. The denoiser must be on
    `device` in eval mode. `steps` is the number of steps if the schedule sets none; `callback` is called at each step.
    `lowres` gives the images that the denoiser enlarges, and their classes if they are known, `given` other conditions.
    `noise` is drawn on the "device" or, so that CPU and GPU get the same, on the "cpu". On the CPU an image depends on
    its seed only, bit by bit, because each pass has `cpu_blocks.block_size` images and one thread; on other devices,
    rounding depends on the batch, by at most one gray level. Raises UserError for classes that are out of range or that
    the model does not have.
    """
    classes = class_numbers(classes, denoiser.spec.label_dim or (lowres.label_dim if lowres else 0))
    if isinstance(classes, list) and len(classes) != len(seeds):
        raise UserError(f"`classes` has {len(classes)} entries for {len(seeds)} seeds; give one each, or one for all")
    items = list(zip(seeds, classes if isinstance(classes, list) else [classes] * len(seeds), strict=True))
    if lowres is not None:
        lowres.require(seeds)
    if given is not None:
        given.require(seeds)
    parts = {"sampler": sampler, "schedule": schedule, "steps": steps, "callback": callback, "lowres": lowres}
    make = sampling(denoiser, encoder, device, **parts, given=given, noise=noise)
    if torch.device(device).type == "cpu":
        return in_blocks(make, block_size(denoiser), items, batch_size)
    return _in_turn(make, chunks(items, batch_size), denoiser)


def _in_turn(make: Callable, parts: Iterable, denoiser) -> Generator[Samples, None, None]:
    networks = [one.model for one in denoiser.modules() if isinstance(one, Preconditioned)]
    with working_weights(denoiser), recorded(networks):
        for part in parts:
            yield make(part)


def sampling(
    denoiser,
    encoder: Encoder,
    device: torch.device | str,
    *,
    sampler: Sampler | None = None,
    schedule: Schedule | None = None,
    steps: int | None = None,
    callback: Callback | None = None,
    lowres: LowResImages | None = None,
    given: GivenConditions | None = None,
    noise: str = "device",
) -> Callable[[Sequence[tuple[int, int | None]]], Samples]:
    """Return the function that makes the samples of some seeds and classes in one pass; arguments as in `generate`."""
    sampler, schedule = sampler or EDMSampler(), schedule or Karras()
    sigmas = levels_for(sampler, schedule, denoiser, steps)
    sampler = sampler.for_schedule(schedule, denoiser)
    source = torch.device("cpu" if noise == "cpu" else device)
    places = torch.device(device), source
    return partial(_sample, denoiser, encoder, sampler, sigmas, *places, callback, lowres, given)


def seed_list(seeds: Iterable[int]) -> list[int]:
    """Return the seeds as a list. Raises UserError unless they are one or more integers."""
    try:
        result = [operator.index(seed) for seed in seeds]
    except TypeError as error:
        given = f"range({seeds})" if isinstance(seeds, int) and seeds > 0 else "range(16)"
        raise UserError(f"`seeds`={seeds!r} is not a sequence of integers; give for example {given}") from error
    if not result:
        raise UserError("`seeds` is empty; give at least one, e.g. range(16)")
    return result


def draw(spec, random: PerSeedRandom, classes: Sequence[int | None] | None = None) -> tuple[Tensor, Tensor | None]:
    """Draw latents [B,C,H,W] and then the class [B] or None for each seed.

    A class is drawn even if `classes` replaces it, so that the noise of later steps is the same.
    """
    latents = random.randn(spec.sample_shape)
    if not spec.label_dim:
        return latents, None
    labels = random.randint(spec.label_dim)
    for index, given in enumerate(classes or ()):
        if given is not None:
            labels[index] = given
    return latents, labels


@torch.no_grad()  # here and not in `generate`, since grad mode is per thread
def _sample(
    denoiser,
    encoder,
    sampler,
    sigmas: Tensor,
    device,
    source,
    callback,
    lowres,
    given,
    items: Sequence[tuple[int, int | None]],
) -> Samples:
    seeds, classes = zip(*items, strict=True)
    spec, small = denoiser.spec, None if lowres is None else lowres(items)
    # Noise of its own, as the noise that the same seed gave to the base model is already in its image.
    random = PerSeedRandom([seed + UPSAMPLING for seed in seeds] if lowres else seeds, device, source)
    if small is not None and small.labels is not None:
        known = [None if label < 0 else label for label in small.labels.tolist()]
        classes = [of_image if given is None else given for given, of_image in zip(classes, known, strict=True)]
    latents, labels = draw(spec, random, classes)
    cond = {} if labels is None else {"labels": F.one_hot(labels, spec.label_dim).to(torch.float32)}
    if small is not None:
        seen = encoder.encode(small.images.to(device))
        cond[condition.NAME] = condition.enlarge(seen, spec.resolution)
        labels = small.labels if labels is None else labels
    if given is not None:
        cond |= given(seeds, spec, device)
        labels = None if given.labels is not None else labels
    x = latents.to(state_dtype(device)) * sigmas[0].item()
    with working_weights(denoiser):
        x = sampler(BoundDenoiser(denoiser, cond), x, sigmas, random.randn_like, callback)
    images = encoder.decode(x)
    return Samples(list(seeds), images[:, :1] if spec.image_channels == 1 and not spec.latent else images, labels)
