"""DDIM inversion: images to the noise that generates them, and back."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import write_output
from elucid.dnnlib.progress import progress_bar
from elucid.torch_utils.distributed import choose_device
from elucid.training.data.dataset import open_dataset
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.samplers.base import levels_for
from elucid.training.samplers.ddim import DDIMSampler
from elucid.training.sampling.options import SampleOptions
from elucid.training.sampling.output.grid import png
from elucid.training.sampling.pipeline import SamplingPipeline, load_pipeline

LATENTS = "latents.npz"


@dataclass(frozen=True)
class Inversion:
    """Result of `invert`: its folder, and the root mean square error of the images generated again, in [-1, 1]."""

    folder: Path
    num_images: int
    error: float
    deviation: float
    """Standard deviation of the noise found, in units of the largest noise level; 1 for images like the data."""


def invert(
    network: str | os.PathLike,
    images: str | os.PathLike,
    outdir: str | os.PathLike,
    options: SampleOptions | None = None,
    *,
    batch: int = 64,
    device: str | None = None,
) -> Inversion:
    """Find the noise of images by DDIM inversion, and generate them again (Song et al. 2021, section 4.3).

    Reads a folder or zip. Writes `000000.png`, ..., the images generated from that noise, in the order of the source,
    and `latents.npz` with their `names` there and the noise `latents` f32[N,C,H,W] of unit variance. Classes are
    `options.classes`, else the images' labels. The error falls in proportion to 1 / `steps`. Raises UserError for
    images that do not fit the model, and for a sampler other than ddim.
    """
    options = options or SampleOptions()
    if options.class_policy is not None:
        raise UserError("`class_policy` is for sampling; images that are inverted have their own classes; leave it out")
    if options.sampler not in (None, "ddim"):
        raise UserError(f"`sampler`={options.sampler} cannot be inverted; use ddim, or leave `sampler` out")
    place, folder = choose_device(device), Path(outdir)
    pipeline = load_pipeline(os.fspath(network), dataclasses.replace(options, sampler="ddim"), place, "`invert`")
    if options is not None and options.operator is not None:
        raise UserError("`invert` finds the noise of images that are known whole; leave `operator` out")
    if pipeline.lowres is not None:
        raise UserError("`invert`: models that enlarge images are not inverted; leave `upsample` and `lowres_from` out")
    sampler = pipeline.sampler
    if not isinstance(sampler, DDIMSampler) or sampler.eta:
        raise UserError("`eta`: only the deterministic sampler can be inverted; leave it out")
    dataset, labels = open_images(pipeline, os.fspath(images))
    sigmas = levels_for(sampler, pipeline.schedule, pipeline.denoiser)
    names, latents, squares = [], [], 0.0
    for start in progress_bar(range(0, len(dataset), batch), desc="inverting"):
        indices = range(start, min(start + batch, len(dataset)))
        raw = torch.from_numpy(np.stack([dataset.image(index) for index in indices])).to(place)
        part = None if labels is None else labels[start : start + batch]
        noise, again = round_trip(pipeline, sampler, raw, part, sigmas)
        squares += float(((again.double() - raw.double()) / 127.5).square().mean(dim=(1, 2, 3)).sum())
        latents.append(noise.cpu())
        for index, image in zip(indices, again.cpu(), strict=True):
            names.append(dataset.image_name(index))
            with write_output(folder / f"{index:06d}.png") as file:
                file.write(png(image))
    found = torch.cat(latents).numpy()
    with write_output(folder / LATENTS) as file:
        np.savez(file, names=np.array(names), latents=found)
    return Inversion(folder, len(names), (squares / len(names)) ** 0.5, float(found.std()))


@torch.no_grad()
def round_trip(
    pipeline: SamplingPipeline, sampler: DDIMSampler, raw: Tensor, labels: Tensor | None, sigmas: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the unit noise f32[B,C,H,W] of images u8[B,C,H,W], and the images generated from it."""
    cond = {} if labels is None else {"labels": labels.to(raw.device)}
    denoise = BoundDenoiser(pipeline.denoiser, cond)
    x = sampler.invert(denoise, pipeline.encoder.encode(raw), sigmas)
    again = pipeline.encoder.decode(sampler(denoise, x, sigmas, torch.randn_like))
    return (x / float(sigmas[0])).to(torch.float32), again[:, : raw.shape[1]]


def open_images(pipeline: SamplingPipeline, path: str):
    """Open the images and their labels [N,D] or None. Raises UserError if they do not fit the model."""
    spec = pipeline.denoiser.spec
    if spec.latent:
        raise UserError("`invert`: the model works on latents; inversion is for models of pixels")
    dataset = open_dataset(path, use_labels=bool(spec.label_dim) and pipeline.classes is None)
    theirs, ours = (dataset.channels, *dataset.resolution), spec.sample_shape
    if theirs != ours:
        words = ["x".join(map(str, shape)) for shape in (theirs, ours)]
        raise UserError(f"`invert`: the images of {path} are {words[0]}, those of the model {words[1]}; resize them")
    if not spec.label_dim:
        return dataset, None
    if pipeline.classes is not None:
        numbers = torch.as_tensor(pipeline.classes).expand(len(dataset))
        return dataset, torch.nn.functional.one_hot(numbers, spec.label_dim).to(torch.float32)
    if dataset.label_dim not in (0, spec.label_dim):
        count = dataset.label_dim
        raise UserError(f"`invert`: {path} has {count} classes, the model {spec.label_dim}; give `class`")
    labels = [dataset.label(index) for index in range(len(dataset))] if dataset.label_dim else None
    return dataset, None if labels is None else torch.from_numpy(np.stack(labels))
