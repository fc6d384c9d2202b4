"""The denoising loss by noise level, with noise that is the same at each call."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.torch_utils import distributed
from elucid.torch_utils.rng import PerSeedRandom, random_state, set_random_state
from elucid.training.noise.distributions import DiscreteLevels, LogNormal, NoiseDistribution
from elucid.training.preconds.base import Denoiser
from elucid.training.transforms.maps import ConditionMaps
from elucid.training.types import MAPS, Cond

DRAWS = 4096
"""Noise levels drawn to find the quantiles of a continuous distribution."""

MAPS_FIX = "train with `heldout` and `heldout_cond_images`, which knows both"


def noise_of(loss) -> NoiseDistribution:
    """Return the distribution of noise levels of a loss or of what it wraps; EDM's if it has none."""
    while getattr(loss, "base", None) is not None:
        loss = loss.base
    noise = getattr(loss, "noise", None)
    return LogNormal() if noise is None else noise


def training_levels(noise: NoiseDistribution, denoiser: Denoiser, count: int) -> Tensor:
    """Return at most `count` noise levels f64[N], ascending: the quantiles (i + 1/2) / count of those in training.

    The mean loss at these levels is about that of training. They are rounded to the denoiser's levels, without repeats.
    """
    if isinstance(noise, DiscreteLevels):  # also those that are drawn by their loss, for which the loss makes up
        drawn = denoiser.levels.flatten()
    else:
        with undisturbed(torch.device("cpu")):
            torch.default_generator.manual_seed(0)
            drawn = noise.sample(DRAWS, denoiser, torch.device("cpu")).flatten()
    places = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return denoiser.round_sigma(torch.quantile(drawn.to("cpu", torch.float64), places)).to(torch.float64).unique()


def loss_weights(denoiser: Denoiser, sigmas: Tensor, loss=None) -> Tensor:
    """Return lambda(sigma) f64[N], the weight of the squared error: of `loss`, or 1 / c_out^2 (Karras et al. 2022)."""
    sigma = sigmas.to(torch.float32).reshape(-1, 1, 1, 1)
    while getattr(loss, "base", None) is not None:
        loss = loss.base
    weigh = getattr(loss, "weight_at", None)
    weights = denoiser.coefficients(sigma).c_out ** -2.0 if weigh is None else weigh(denoiser, sigma)
    return weights.to("cpu", torch.float64).reshape(-1).expand(len(sigmas))


@torch.no_grad()
def squared_errors(denoiser: Denoiser, images: Tensor, cond: Cond, sigmas: Tensor, seeds: list[int]) -> Tensor:
    """Return |D(y + n; sigma) - y|^2 per element f64[B,N], n ~ N(0, sigma^2), of images y [B,C,H,W] at levels [N].

    The noise of an image depends on its seed only, and is drawn anew for each level.
    """
    random, errors = PerSeedRandom(seeds, images.device), []
    for sigma in sigmas.tolist():
        level = torch.full((len(images),), sigma, device=images.device)
        x0 = denoiser(images + sigma * random.randn_like(images), level, cond).x0
        errors.append((x0 - images).to("cpu", torch.float64).square().mean(dim=(1, 2, 3)))
    return torch.stack(errors, dim=1)


def errors_of(
    denoiser: Denoiser,
    encoder,
    dataset,
    indices: list[int],
    sigmas: Tensor,
    *,
    seed: int,
    batch: int,
    device,
    step: Callable,
    maps: ConditionMaps | None = None,
) -> np.ndarray:
    """Return the squared errors f64[len(indices),N] of images of a dataset on all processes, which must all call it.

    The i-th of them has the noise of `seed` + i. `step(images)` is called after each batch. `maps` reads the maps
    beside the images for a model that takes them.
    """
    own: list[tuple[list[int], np.ndarray]] = []
    for places in distributed.rank_share(range(len(indices)), batch):
        chosen, seeds = [indices[place] for place in places], [seed + place for place in places]
        raw = torch.from_numpy(np.stack([dataset.image(index) for index in chosen])).to(device)
        labels = torch.from_numpy(np.stack([dataset.label(index) for index in chosen])).to(device)
        images = encoded(encoder, raw, seeds) if denoiser.spec.latent else encoder.encode(raw)
        cond = {"labels": labels} if denoiser.spec.label_dim else {}
        if maps is not None:
            cond[MAPS] = maps.read(dataset, np.array(chosen), images.shape[2:], device)
        own.append((list(places), squared_errors(denoiser, images, cond, sigmas, seeds).numpy()))
        step(len(places))
    errors = np.zeros((len(indices), len(sigmas)))
    for parts in distributed.gather_objects(own):
        for places, values in parts:
            errors[places] = values
    return errors


def encoded(encoder, raw: Tensor, seeds: list[int]) -> Tensor:
    """Encode images whose latents are random: each with noise of its own seed."""
    parts = []
    for image, seed in zip(raw, seeds, strict=True):
        torch.manual_seed(seed)
        parts.append(encoder.encode(image[None]))
    return torch.cat(parts)


def require_measurable(denoiser, encoder, dataset, what: str) -> None:
    """Raise UserError if the loss of a dataset cannot be computed, which `what` names in the message."""
    spec = denoiser.spec
    if not isinstance(denoiser, Denoiser):
        raise UserError(f"{what}: the model is a {type(denoiser).__name__}, not a denoiser; leave it out")
    if MAPS in spec.spatial and dataset.maps is None:
        raise UserError(f"{what}: the model takes maps, and none are given beside {dataset.path}; {MAPS_FIX}")
    if "lowres" in spec.spatial:
        raise UserError(f"{what} is not supported for models that enlarge images; use one trained without lowres")
    stored = dataset.encoder is not None
    if stored and not spec.latent:
        raise UserError(f"{what}: {dataset.path} holds latents, and the model is one of images; give images")
    factor = 1 if stored else encoder.factor
    size = tuple(side * factor for side in spec.resolution)
    pairs = [("size", tuple(dataset.resolution), size), ("classes", dataset.label_dim, spec.label_dim)]
    if not spec.latent:
        pairs.append(("channels", dataset.channels, spec.image_channels))
    if stored and dataset.encoder["sha256"] is not None and hasattr(encoder, "pixels"):
        pairs.append(("latents of pixels", dataset.encoder.get("pixels", "signed"), encoder.pixels))
        if encoder.sha256 is not None:
            pairs.append(("latents of a VAE of weights", dataset.encoder["sha256"][:12], encoder.sha256[:12]))
    for name, theirs, ours in pairs:
        if theirs != ours:
            shown = ("x".join(map(str, reversed(one))) if isinstance(one, tuple) else one for one in (theirs, ours))
            given, wanted = shown
            raise UserError(f"{what}: {dataset.path} has {name} {given}, the model {wanted}; give images like its own")


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Restore the state of all random generators afterwards, so that training goes on as if nothing had happened."""
    state, of_numpy = random_state(device), np.random.get_state()
    try:
        yield
    finally:
        set_random_state(state, device)
        np.random.set_state(of_numpy)
