"""The loss of a model on held-out images against training images."""

import os
from dataclasses import replace

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import require_writable
from elucid.dnnlib.progress import progress_bar
from elucid.evaluation.heldout import summarise
from elucid.evaluation.results import Result
from elucid.torch_utils import distributed
from elucid.training.data.dataset import ImageDataset, open_dataset
from elucid.training.losses.base import Loss
from elucid.training.losses.by_level import (
    errors_of,
    loss_weights,
    noise_of,
    require_measurable,
    training_levels,
    undisturbed,
)
from elucid.training.preconds.base import Denoiser
from elucid.training.registry.components import make
from elucid.training.sampling.options import SampleOptions
from elucid.training.sampling.pipeline import SamplingPipeline, load_pipeline

MOST = 5000
"""Images of each set if no number is given."""


def heldout_loss(
    network: str | os.PathLike,
    data: str | os.PathLike,
    test: str | os.PathLike,
    *,
    sigmas: int = 8,
    num: int | None = None,
    seed: int = 0,
    options: SampleOptions | None = None,
    dest: str | os.PathLike | None = None,
    batch: int = 64,
    device: str | None = None,
) -> Result:
    """Compare the denoising loss of held-out images `test` with that of the training images `data`.

    The loss is |D(y + n; sigma) - y|^2 per element, plain and times 1 / c_out(sigma)^2 (Karras et al. 2022, eq. 8), at
    as many noise levels as `sigmas`: quantiles of those that the run's loss draws, so that the mean weighted loss is
    about the training loss. `num` images of each set are chosen by `seed`, by default as many as `test` has, at most
    5000; both sets get the same noise. Of `options`, `ema`, `adm_preset`, `checkpoint_model`, `precision`, `plugins`,
    and `set` for the encoder count. The value is the mean weighted loss of held-out minus training images. Under
    torchrun all processes must call it. Raises UserError for models that enlarge images and for data that does not fit
    the model.
    """
    place = distributed.choose_device(device)
    distributed.init(place)
    if dest is not None and distributed.is_main():
        require_writable(dest)
    given = options or SampleOptions()
    names = ("ema", "precision", "plugins", "adm_preset", "checkpoint_model", "set")
    kept = {name: getattr(given, name) for name in names}
    pipeline = load_pipeline(os.fspath(network), SampleOptions(**kept), place, "the loss on held-out images")
    held_out = open_fitting(pipeline, test, num or MOST, seed, "`test`")
    training = open_fitting(pipeline, data, len(held_out) if num is None else num, seed, "`data`")
    for name, dataset in (("test", held_out), ("data", training)):
        if num is not None and len(dataset) < num:
            raise UserError(f"`{name}`: {dataset.path} has {len(dataset)} images, fewer than `num`={num}; lower `num`")
    denoiser = pipeline.snapshot.ema  # as it was trained, without clipping
    assert isinstance(denoiser, Denoiser)  # the pipeline refuses others
    with undisturbed(place):
        loss_of = loss_of_run(pipeline)
        levels = training_levels(noise_of(loss_of), denoiser, sigmas)
        total, errors = len(held_out) + len(training), []
        with progress_bar(total=total, desc="loss", disable=not distributed.is_main(), delay=1) as bar:

            def step(count: int) -> None:
                bar.update(min(count * distributed.world_size(), total - bar.n))

            for dataset in (training, held_out):
                indices = list(range(len(dataset)))
                parts = (denoiser, pipeline.encoder, dataset, indices, levels)
                errors.append(errors_of(*parts, seed=seed, batch=batch, device=place, step=step))
    result = summarise(levels.numpy(), loss_weights(denoiser, levels.to(place), loss_of).numpy(), *errors)
    paths = {"network": os.fspath(network), "data": os.fspath(data), "test": os.fspath(test), "seed": seed}
    about = {**result.about, **paths, "network_sha256": pipeline.description["network"]}
    result = replace(result, about={**about, "ema": pipeline.description["ema"], "nimg": pipeline.snapshot.nimg})
    if dest is not None and distributed.is_main():
        result.save(dest)
    return result


def loss_of_run(pipeline: SamplingPipeline) -> Loss:
    """Return the loss of the run, or the denoiser's default one."""
    component = pipeline.snapshot.options.get("loss") or {"name": pipeline.snapshot.ema.default_loss}
    return make(component, "loss")


def open_fitting(pipeline: SamplingPipeline, path: str | os.PathLike, num: int, seed: int, what: str) -> ImageDataset:
    """Open at most `num` images. Raises UserError if they do not fit the model or are fewer than two."""
    labels = bool(pipeline.snapshot.ema.spec.label_dim)
    dataset = open_dataset(path, use_labels=labels, max_size=num, seed=seed, latents=True, arrays=True)
    require_measurable(pipeline.snapshot.ema, pipeline.encoder, dataset, what)
    if len(dataset) < 2:
        raise UserError(f"{what}: {path} has {len(dataset)} image; a mean with an interval needs at least 2")
    return dataset
