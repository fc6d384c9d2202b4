"""The sampling flags of generate.py as a dataclass."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elucid.dnnlib.values import component_name, repr_of_set
from elucid.training.config.train_options import as_assignments
from elucid.training.registry.edm2_pairs import pair_of
from elucid.training.registry.public_transformers import GUIDED, Guided

NOISE = ("device", "cpu")
"""Where noise is drawn; the same seed gives other numbers on a GPU than on the CPU."""


@dataclass(kw_only=True, repr=False)
class SampleOptions:
    """Sampling options; None means the snapshot's own value or the default.

    `classes`: one class for all images or one per seed, as numbers or names; None leaves them to `class_policy`:
    "random", the default, draws each with its seed, "equal" takes them in turn, "data" in the proportions of the
    training data, "none" is no class. `guidance` is the scale of classifier-free guidance (1 disables it) or, with
    `guide`, a weaker snapshot, of autoguidance; `preset` names a published pair of EDM2's networks
    (`registry.edm2_pairs`) whose scale holds where none is given, or the published guidance of a transformer
    (`registry.public_transformers`), with scale, interval, guided channels and perhaps sampler; `classifier` is a
    snapshot of a classifier of noisy images, which guides with `classifier_scale`, 1 by default, also besides other
    guidance and a model without classes; `guidance_interval` limits all guidance to noise levels (low, high),
    `guidance_interval_t` to times of flow matching, 0 for data and 1 for noise. `solver`, `disc`, `schedule`, `scaling`
    are options of the ablation sampler, `eta` is one of ddim, `variance` of ddpm. `clip` and `threshold` keep the
    predicted image in range. `respacing` selects steps of a discrete process, e.g. "250" or "ddim25". `x_start`,
    `y_start`, `image_size` select a window for a model trained on patches. `adm_preset` has the options of a public
    state dict, and `checkpoint_model` is the name that a public transformer has in its own program, e.g. "SiT-XL/2".
    `set` sets any other option of sampler, schedule, guidance, encoder by its path, e.g. `set={"sampler.epsilon_scale":
    1.05}`.

    `ema_std` takes the average of this relative length (0.01 to 0.28), reconstructed from the snapshots of a run, whose
    folder is given instead of one of them; `guide_std` is that of the guide, likewise.

    `lowres_from`: a folder or zip of low-resolution images for a model trained with `lowres`. `upsample` is a snapshot
    of such a model that enlarges the images, with the sampler of its own run in `upsample_steps` steps; all other
    options but `precision`, `noise` and `plugins` are the base model's. `cond_images` are the maps of a model trained
    with such, a folder, a zip or a file of one, and `cond_labels` vectors of labels, `.npy` [N,D] or a dataset; seed s
    has number s // `members` of them, 1 by default, so that each condition has so many samples. `operator`, e.g.
    "inpaint:mask.png", and `measurement`, a file or one for each condition, state an inverse problem, in the data's own
    units; `measurement_noise` is "gaussian:STD" or "poisson:GAIN", and `posterior` the method. `noise` "cpu" draws all
    noise on the host, so that a seed starts from the same on every device; "device" is the default.
    """

    classes: int | str | Sequence[int | str] | None = None
    class_policy: str | None = None
    steps: int | None = None
    sampler: str | type | None = None
    sigma_min: float | None = None
    sigma_max: float | None = None
    rho: float | None = None
    S_churn: float | None = None
    S_min: float | None = None
    S_max: float | None = None
    S_noise: float | None = None
    solver: str | None = None
    disc: str | None = None
    schedule: str | None = None
    scaling: str | None = None
    respacing: str | None = None
    eta: float | None = None
    variance: str | None = None
    clip: bool | None = None
    threshold: float | None = None
    preset: str | None = None
    guidance: float | None = None
    guidance_interval: Sequence[float] | None = None
    guidance_interval_t: Sequence[float] | None = None
    guide: str | None = None
    classifier: str | None = None
    classifier_scale: float | None = None
    ema: str | None = None
    ema_std: float | None = None
    guide_std: float | None = None
    adm_preset: str | None = None
    checkpoint_model: str | None = None
    on_latents: bool | None = None
    resolution: int | None = None
    x_start: int | None = None
    y_start: int | None = None
    image_size: int | None = None
    lowres_from: str | os.PathLike | None = None
    upsample: str | os.PathLike | None = None
    upsample_steps: int | None = None
    cond_images: str | os.PathLike | None = None
    cond_labels: str | os.PathLike | None = None
    members: int | None = None
    operator: str | dict[str, Any] | None = None
    measurement: str | os.PathLike | None = None
    measurement_noise: str | float | None = None
    posterior: str | dict[str, Any] | None = None
    precision: str | None = None
    noise: str | None = None
    plugins: str | Sequence[str] | None = None
    set: Mapping[str, Any] | Sequence[str] | None = None

    def __post_init__(self):
        if self.preset in GUIDED:
            self._take(GUIDED[self.preset])
        elif self.preset is not None:
            pair = pair_of(self.preset, self.guide)
            self.guidance = pair.guidance if self.guidance is None else self.guidance
        self.sampler = self.sampler and component_name("sampler", self.sampler)
        for name in ("lowres_from", "upsample", "cond_images", "cond_labels", "measurement"):
            value = getattr(self, name)
            setattr(self, name, value if value is None else os.fspath(value))

    def _take(self, published: Guided) -> None:
        """Set what is not set as a published figure had it."""
        self.guidance = published.guidance if self.guidance is None else self.guidance
        self.sampler = self.sampler or published.sampler
        if self.guidance_interval is None and self.guidance_interval_t is None:
            self.guidance_interval_t = published.interval_t
        own = as_assignments(self.set or ())
        if published.channels is not None and not any(one.startswith("guidance.channels=") for one in own):
            self.set = [f"guidance.channels={published.channels}", *own]

    def __repr__(self) -> str:
        return repr_of_set(self)
