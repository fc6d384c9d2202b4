"""The pipeline from seeds to images: a snapshot, prepared for sampling with `SampleOptions`."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import sha256
from elucid.torch_utils.precision import set_precision
from elucid.training.config.build import make_encoder
from elucid.training.encoders.base import Encoder
from elucid.training.guidance.clipping import clipped
from elucid.training.guidance.window import windowed
from elucid.training.networks.kernels.choice import choose_kernels
from elucid.training.noise.schedules import Schedule
from elucid.training.preconds.base import Denoiser
from elucid.training.preconds.wrapper import DenoiserWrapper
from elucid.training.registry.components import make, resolved
from elucid.training.registry.edm2_pairs import PAIRS, lengths_of_runs, note_other_lengths
from elucid.training.samplers.base import Sampler, levels_for
from elucid.training.sampling.choices import (
    chosen_noise,
    chosen_options,
    own_or_chosen,
    require_sampler_options,
    require_variance,
)
from elucid.training.sampling.class_policy import policy_classes, require_policy
from elucid.training.sampling.classes import class_numbers
from elucid.training.sampling.conditions.chosen import given_conditions
from elucid.training.sampling.conditions.given import GivenConditions
from elucid.training.sampling.conditions.lowres import LowResImages
from elucid.training.sampling.conditions.upsampling import FromModel, given_images, require_pair
from elucid.training.sampling.cpu_blocks import block_size, whole_blocks
from elucid.training.sampling.generate import Samples, generate, sampling
from elucid.training.sampling.guided import (
    guidance_options,
    in_levels,
    load_classifier,
    warn_of_labels_never_dropped,
    with_classifier,
    with_guidance,
)
from elucid.training.sampling.inverse.options import with_measurement
from elucid.training.sampling.inverse.posterior import described
from elucid.training.sampling.options import SampleOptions
from elucid.training.snapshots.reconstruct import chosen_average
from elucid.training.snapshots.snapshot import Snapshot, load_snapshot, located
from elucid.training.snapshots.trust import import_plugins
from elucid.training.transforms.lowres import NAME
from elucid.training.types import NetSpec


@dataclass
class SamplingPipeline:
    """A snapshot ready to sample. `description` and the seed determine an image completely.

    `classes` is None, one number for all, or one per seed. `lowres` gives the images that the model enlarges, if it
    does, `given` their other conditions, and `class_names` the names of the classes of the samples.
    """

    snapshot: Snapshot
    denoiser: Denoiser | DenoiserWrapper
    encoder: Encoder
    sampler: Sampler
    schedule: Schedule
    device: torch.device
    classes: int | list[int] | None
    description: dict[str, Any]
    class_names: list[str] | None = None
    lowres: LowResImages | None = None
    class_policy: str | None = None
    noise: str = "device"
    given: GivenConditions | None = None

    @property
    def label_dim(self) -> int:
        """Number of classes of the samples; 0 if they have none, or vectors in their place."""
        if self.given is not None and self.given.labels is not None:
            return 0
        return self.denoiser.spec.label_dim or (self.lowres.label_dim if self.lowres else 0)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images."""
        spec, factor = self.denoiser.spec, self.encoder.factor
        if not self.encoder.pictures:
            return spec.sample_shape
        channels = 1 if spec.image_channels == 1 and not spec.latent else 3
        return (channels, *(side * factor for side in spec.resolution))

    def require(self, seeds: Sequence[int]) -> None:
        """Raise UserError if a seed has no condition, of those that are given."""
        for given in (self.lowres, self.given):
            if given is not None:
                given.require(seeds)

    def classes_of(self, seeds: Sequence[int]) -> int | list[int] | None:
        """Return one class for all seeds, or one per seed, or None if each is drawn with its seed."""
        if self.class_policy is None or self.classes is not None:
            return self.classes
        return policy_classes(self.class_policy, seeds, self.class_counts or [1] * self.label_dim)

    @property
    def class_counts(self) -> list[int] | None:
        """Number of training images of each class, if the snapshot has it."""
        return self.snapshot.dataset.get("class_counts")

    def generate(
        self, seeds: Sequence[int], batch_size: int = 64, classes: Sequence[int] | None = None
    ) -> Generator[Samples, None, None]:
        """Yield images of the seeds in order, at most `batch_size` at a time; `classes` replaces the pipeline's."""
        chosen = self.classes_of(seeds) if classes is None else classes
        parts = {"device": self.device, "sampler": self.sampler, "schedule": self.schedule, "lowres": self.lowres}
        parts |= {"noise": self.noise, "given": self.given}
        return generate(self.denoiser, self.encoder, seeds, batch_size=batch_size, classes=chosen, **parts)


def load_pipeline(
    network: str, options: SampleOptions, device: torch.device, purpose: str | None = None
) -> SamplingPipeline:
    """Load a snapshot and prepare it for sampling. Raises UserError for options or classes that it does not have.

    `purpose` names what only models that do not enlarge images can do; others are refused.
    """
    plugins = options.plugins or ()
    import_plugins(filter(None, plugins.split(",")) if isinstance(plugins, str) else plugins)
    require_parts(options)
    if options.preset in PAIRS:
        note_other_lengths(options.preset, network, options.guide)
        lengths = lengths_of_runs(options.preset, network, options.guide)
        if options.ema is not None:
            lengths.pop("ema_std", None)
        options = replace(options, **{name: getattr(options, name) or std for name, std in lengths.items()})
    adm = chosen_options(options)["network"]
    snapshot = chosen_average(network, device, options.ema, options.ema_std, "ema_std", adm)
    if purpose is not None and NAME in snapshot.ema.spec.spatial:
        raise UserError(
            f"{purpose} is not supported for models that enlarge images, as this one; choose one trained without "
            "--lowres"
        )
    pipeline = make_pipeline(snapshot, options, device)
    pipeline.description["network"] = sha256(located(network))
    if adm:  # not otherwise, as samples of all other files keep their digest
        pipeline.description["adm"] = adm
    return pipeline


def require_parts(options: SampleOptions) -> None:
    """Raise UserError for unknown component names, before a large snapshot is loaded."""
    chosen = chosen_options(options)
    if "name" in chosen["sampler"]:
        require_sampler_options(options, chosen["sampler"]["name"])
    for kind in ("sampler", "schedule"):
        if "name" in chosen[kind]:
            make(chosen[kind], kind)


def make_pipeline(snapshot: Snapshot, options: SampleOptions, device: torch.device) -> SamplingPipeline:
    """Prepare a loaded snapshot for sampling, and the one that enlarges its images, if `upsample` names one.

    Only the precision of its denoiser is changed in place.
    """
    pipeline = single_pipeline(snapshot, options, device)
    if options.upsample is not None:
        return upsampled(pipeline, options, device)
    if options.upsample_steps is not None:
        raise UserError("`upsample_steps` are those of the model of `upsample`; give both, or `steps`")
    return pipeline


def upsampled(base: SamplingPipeline, options: SampleOptions, device: torch.device) -> SamplingPipeline:
    """Return the pipeline that enlarges the samples of `base` with the model of `upsample`, by its own sampler.

    Raises UserError if the two do not fit.
    """
    path, same = str(options.upsample), {"precision": options.precision, "noise": options.noise}
    own = SampleOptions(steps=options.upsample_steps, **same)
    snapshot = load_snapshot(path, device, adm=chosen_options(options)["upsample"])
    require_pair(path, snapshot, base.image_shape, base.label_dim, base.class_names)
    parts = {"sampler": base.sampler, "schedule": base.schedule, "lowres": base.lowres, "noise": base.noise}
    parts["given"] = base.given
    make = sampling(base.denoiser, base.encoder, device, **parts)
    if device.type == "cpu":
        make = whole_blocks(make, block_size(base.denoiser))
    precisions = (base.denoiser.precision, own.precision or snapshot.ema.precision)
    pipeline = single_pipeline(snapshot, own, device, FromModel(make, base.label_dim, precisions, base.lowres))
    second = {**pipeline.description, "network": sha256(located(path))}
    description = {**base.description, "upsample": second}
    own = {"classes": base.classes, "class_policy": base.class_policy, "class_names": base.class_names}
    return replace(pipeline, **own, description=description)


def single_pipeline(
    snapshot: Snapshot, options: SampleOptions, device: torch.device, lowres: LowResImages | None = None
) -> SamplingPipeline:
    """Prepare one snapshot for sampling; `lowres` replaces the images of `lowres_from`."""
    chosen, denoiser = chosen_options(options), snapshot.ema
    if not isinstance(denoiser, Denoiser):
        raise UserError(f"the snapshot contains a {type(denoiser).__name__}, not a denoiser that generates images")
    options = in_levels(options, denoiser)
    require_sampler_options(options, chosen["sampler"].get("name") or str(snapshot.sampler.get("name")))
    sampler, schedule = (own_or_chosen(kind, getattr(snapshot, kind), chosen) for kind in ("sampler", "schedule"))
    require_variance(denoiser.spec, getattr(sampler, "variance", None))
    classifier = load_classifier(options, device)
    named = snapshot if denoiser.spec.label_dim or classifier is None else classifier
    names = named.dataset.get("class_names")
    lowres = lowres or given_images(snapshot, options)
    encoder = prepare_encoder(snapshot, chosen["encoder"], options, device)
    denoiser.precision = options.precision or denoiser.precision
    check_resolution(denoiser.spec, encoder.factor, options.resolution)
    window = windowed(denoiser, options.x_start, options.y_start, options.image_size)
    if lowres is not None and window is not denoiser:
        raise UserError(
            "`x_start`, `y_start`, `image_size`: a model that enlarges images has no windows; leave them out"
        )
    guided = with_guidance(window, chosen["guidance"], options, device, snapshot.options)
    limited = clipped(guided, options.clip, options.threshold)
    guided_by_all = with_classifier(limited, classifier, names, options)
    number = len(levels_for(sampler, schedule, guided_by_all)) - 1
    outermost, measurements = with_measurement(guided_by_all, encoder, options, number)
    given = given_conditions(snapshot, options, device, measurements)
    # So that impossible levels are refused before anything is written.
    levels_for(sampler, schedule, outermost)
    classes = class_numbers(options.classes, outermost.spec.label_dim, names)
    warn_of_labels_never_dropped(snapshot.options, options)
    choose_kernels(denoiser.model, denoiser.compute_dtype)
    set_precision(denoiser.precision, bench=False)  # benchmarking may select kernels with other rounding in each run
    description = {
        "ema": options.ema or next(iter(snapshot.emas)),
        "sampler": resolved(sampler),
        "schedule": resolved(schedule),
        "encoder": resolved(encoder),
        "class": classes,
        "window": None if window is denoiser else [*window.start, *window.spec.resolution],
        "precision": denoiser.precision,
        "device": device.type,
        "guidance": None if guided is window else guidance_options(guided),
        "guide": options.guide and sha256(located(options.guide)),
    }
    for name in ("ema_std", "guide_std"):  # not otherwise, as samples without keep their digest
        if getattr(options, name) is not None:
            description[name] = getattr(options, name)
    if limited is not guided:
        description["clipping"] = {"threshold": limited.threshold}
    if options.classifier is not None:  # not otherwise, as samples without one keep their digest
        description["classifier"] = {**resolved(guided_by_all), "snapshot": sha256(located(options.classifier))}
    if options.lowres_from is not None:
        description["lowres_from"] = lowres.digest
    if given is not None:
        description["given"] = given.digest
    if outermost is not guided_by_all:
        description["inverse"] = described(outermost)
    noise = chosen_noise(options)
    if noise == "cpu" and device.type != "cpu":
        description["noise"] = noise
    parts = (outermost, encoder, sampler, schedule, device)
    made = {"class_names": names, "lowres": lowres, "class_policy": options.class_policy, "noise": noise}
    pipeline = SamplingPipeline(snapshot, *parts, classes, description, **made, given=given)
    label_dim = pipeline.label_dim or outermost.spec.label_dim
    require_policy(options.class_policy, classes, label_dim, pipeline.class_counts)
    return pipeline


def check_resolution(spec: NetSpec, factor: int, side: int | None) -> None:
    """Raise UserError if `side` is not the model's image size.

    `factor` is the ratio of decoded images to the network's output; either size is accepted.
    """
    if side is not None and (side, side) not in (spec.resolution, tuple(size * factor for size in spec.resolution)):
        height, width = spec.resolution
        raise UserError(f"`resolution`={side}, but the model generates {width}x{height}; leave `resolution` out")


def prepare_encoder(snapshot: Snapshot, changes: dict, options: SampleOptions, device: torch.device) -> Encoder:
    """Create the snapshot's encoder on the device, with changes by `set`, e.g. the path of a VAE on this machine.

    Raises UserError if `on_latents` contradicts the snapshot, or the encoder does not fit its network.
    """
    spec = snapshot.ema.spec
    if options.on_latents not in (None, spec.latent):
        makes, value = ("latents", 1) if spec.latent else ("images", 0)
        raise UserError(f"`on_latents`={1 - value}, but the snapshot's model generates {makes}; leave `on_latents` out")
    if "name" in changes:
        raise UserError("`set` encoder.name: the model was trained with the snapshot's own encoder; leave it out")
    encoder = make_encoder({**snapshot.encoder, **changes}, device)
    encoder.check(spec)
    return encoder
