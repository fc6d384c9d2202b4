"""Bits per dimension of a dataset under a trained model."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar
from elucid.evaluation.nll import Bound, bound
from elucid.evaluation.results import Curve, Result, Series, Table
from elucid.torch_utils import distributed
from elucid.training.data.dataset import open_dataset
from elucid.training.sampling.choices import require_variance
from elucid.training.sampling.options import SampleOptions
from elucid.training.sampling.pipeline import SamplingPipeline, load_pipeline


@dataclass(frozen=True, repr=False)
class Likelihood:
    """The bound on the negative log-likelihood in bits per dimension: mean over images, 95 % interval and terms.

    `steps` holds the mean term of each step, noisiest first; the last is that of the 8-bit image given x_1.
    """

    value: float
    interval: tuple[float, float]
    prior: float
    steps: list[float]
    num_images: int
    about: dict[str, Any]

    def __repr__(self) -> str:
        return f"<elucid.Likelihood: {self.value:.4f} bits per dimension of {self.num_images} images>"

    def as_dict(self) -> dict[str, Any]:
        own = {"name": "nll_bits_per_dim", "value": self.value, "interval": list(self.interval), "prior": self.prior}
        return {**own, "steps": self.steps, "num_images": self.num_images, **self.about}

    def result(self) -> Result:
        """Return the same with a table of the terms and a curve of the steps, to be saved for a report."""
        *kl, last = self.steps
        points = tuple((float(len(kl) - place), value) for place, value in enumerate(kl))
        curve = Curve("terms of the bound", "step", "bits per dimension", (Series("KL of a step", points),), log_y=True)
        table = Table("terms of the bound, bits per dimension", ("term", "bits"), tuple(self.terms()))
        lines = (f"{self.num_images} images",)
        return Result(
            "nll",
            "nll_bits_per_dim",
            self.value,
            self.interval,
            lines,
            (table,),
            (curve,) if kl else (),
            about=self.about,
        )

    def table(self, groups: int = 10) -> str:
        """Return the terms as lines."""
        return "\n".join(f"  {name:24}{value:10.6f}" for name, value in self.terms(groups))

    def terms(self, groups: int = 10) -> list[tuple[str, float]]:
        """Return the prior, the steps in groups from noisy to clean, the last step, and the total."""
        *kl, last = self.steps
        lines = [("prior", self.prior)]
        for part in np.array_split(np.arange(len(kl)), min(groups, len(kl))) if kl else ():
            name = f"steps {len(kl) - part[0]}..{len(kl) - part[-1]}"
            lines.append((name, float(np.sum([kl[index] for index in part]))))
        return [*lines, ("image given x_1", last), ("total", self.value)]


def nll(
    network: str | os.PathLike,
    data: str | os.PathLike,
    *,
    num: int | None = None,
    seed: int = 0,
    respacing: str | None = None,
    options: SampleOptions | None = None,
    batch: int = 64,
    device: str | None = None,
) -> Likelihood:
    """Compute the variational bound on the negative log-likelihood of a dataset (Ho et al. 2020; bits per dimension).

    `num` images are chosen by `seed`, by default all are used. The process is the model's own; models without discrete
    noise levels get the linear one of 1000 steps. `respacing` uses fewer steps. Of `options`, `variance`, `clip`,
    `ema`, `adm_preset`, `checkpoint_model`, `precision`, `plugins` count. Under torchrun all processes must call it.
    Raises UserError for models of latents, for those that enlarge images, and for data that does not fit the model.
    """
    place = distributed.choose_device(device)
    distributed.init(place)
    options = options or SampleOptions()
    names = ("ema", "precision", "plugins", "clip", "adm_preset", "checkpoint_model")
    given = {name: getattr(options, name) for name in names}
    settings = SampleOptions(**given, respacing=respacing, set={"schedule.name": "respaced"})
    pipeline = load_pipeline(os.fspath(network), settings, place, "the likelihood of images")
    require_variance(pipeline.denoiser.spec, options.variance)
    dataset = open_fitting(pipeline, os.fspath(data), num, seed)
    sigmas = pipeline.schedule(pipeline.denoiser, 10**9)
    parts: list[Bound] = []
    share = min(batch, -(-len(dataset) // distributed.world_size()))
    with progress_bar(total=len(dataset), desc="likelihood", disable=not distributed.is_main()) as bar:
        for indices in distributed.rank_share(range(len(dataset)), share):
            raw = torch.from_numpy(np.stack([dataset.image(index) for index in indices])).to(place)
            labels = np.stack([dataset.label(index) for index in indices])
            cond = {"labels": torch.from_numpy(labels).to(place)} if pipeline.denoiser.spec.label_dim else {}
            images = pipeline.encoder.encode(raw)
            seeds = [seed + index for index in indices]
            parts.append(bound(pipeline.denoiser, images, cond, sigmas, seeds, options.variance))
            bar.update(len(indices) * distributed.world_size())
    return summary(parts, {"data": os.fspath(data), "network": os.fspath(network), "seed": seed})


def open_fitting(pipeline: SamplingPipeline, path: str, num: int | None, seed: int):
    """Open the images. Raises UserError if their size, channels or classes are not the model's."""
    spec = pipeline.denoiser.spec
    if spec.latent:
        raise UserError("`network`: it models latents, whose likelihood is not that of images; choose one of pixels")
    dataset = open_dataset(path, use_labels=bool(spec.label_dim), max_size=num, seed=seed)
    if num is not None and len(dataset) < num:
        raise UserError(f"{path} has {len(dataset)} images, fewer than `num`={num}; give `num`={len(dataset)}")
    for what, ours, theirs in (
        ("size", *("x".join(map(str, reversed(one))) for one in (dataset.resolution, spec.resolution))),
        ("channels", dataset.channels, spec.image_channels),
        ("classes", dataset.label_dim, spec.label_dim),
    ):
        if ours != theirs:
            raise UserError(f"`data`: {path} has {what} {ours}, the model {theirs}; choose data like that of its run")
    return dataset


def summary(parts: list[Bound], about: dict[str, Any]) -> Likelihood:
    """Combine the bounds of all images of all processes."""
    total = torch.cat([part.total.cpu() for part in parts]) if parts else torch.zeros(0, dtype=torch.float64)
    sums = [(float(part.prior.sum()), part.steps.sum(dim=0).cpu().tolist()) for part in parts]
    gathered = distributed.gather_objects((total.tolist(), sums))
    totals = np.concatenate([np.asarray(values) for values, _ in gathered])
    all_sums = [one for _, sums in gathered for one in sums]
    count = len(totals)
    prior = sum(one for one, _ in all_sums) / count
    steps = (np.sum([terms for _, terms in all_sums], axis=0) / count).tolist()
    mean = float(totals.mean())
    spread = 1.96 * float(totals.std(ddof=1)) / count**0.5 if count > 1 else float("nan")
    return Likelihood(mean, (mean - spread, mean + spread), prior, steps, count, about)
