"""How to sample from a snapshot: what generate.py's flags say, as a dataclass."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(kw_only=True)
class SampleOptions:
    """Options of sampling; None is the snapshot's own, or the default.

    `classes`: one class for all images, or one per seed, as numbers or names; None draws them by the seed. `guidance`
    is the scale of classifier-free guidance (1 is none), or with `guide`, a weaker snapshot, that of autoguidance;
    `guidance_interval` the noise levels (low, high) that it acts on. `solver`, `disc`, `schedule`, `scaling` belong to
    the ablation sampler. `x_start`, `y_start`, `image_size` draw a window of a model trained on patches. `set`
    reaches every other option of sampler, schedule, guidance, encoder by its path: `set={"sampler.eta": 0.5}`.
    """

    classes: int | str | Sequence[int | str] | None = None
    steps: int | None = None
    sampler: str | None = None
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
    guidance: float | None = None
    guidance_interval: Sequence[float] | None = None
    guide: str | None = None
    ema: str | None = None
    on_latents: bool | None = None
    resolution: int | None = None
    x_start: int | None = None
    y_start: int | None = None
    image_size: int | None = None
    precision: str | None = None
    plugins: str | Sequence[str] | None = None
    set: Mapping[str, Any] | Sequence[str] | None = None
