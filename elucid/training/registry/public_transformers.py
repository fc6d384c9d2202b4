"""Public transformers: names of their models, how each family was sampled, and the published guidance.

Data only. docs/transformers.md has the figures that go with it.
"""

from dataclasses import dataclass

from elucid.dnnlib.errors import UserError, did_you_mean
from elucid.training.registry.transformer_options import SIZES

PATCHES = {"DiT": (2, 4, 8), "SiT": (1, 2, 4, 8), "JiT": (16, 32, 64), "LightningDiT": (1, 2), "DDT": (2,)}
"""Patches of each family, by the name that its programs use; SiT-XL/1 is REPA-E's."""

MODELS: dict[str, tuple[str, str, int]] = {
    f"{name}-{size.upper().replace('.', 'p')}/{patch}": (name.lower(), size, patch)
    for name, patches in PATCHES.items()
    for size in SIZES[name.lower()]
    for patch in patches
}
"""Family, size and patch of each model, e.g. of "DiT-XL/2"; REPA's are SiT's."""


def model_called(name: str) -> tuple[str, str, int]:
    """Return family, size and patch of a model. Raises UserError for an unknown name."""
    if name not in MODELS:
        raise UserError(f"`checkpoint_model`={name} is unknown{did_you_mean(name, MODELS)}: {', '.join(MODELS)}")
    return MODELS[name]


SAMPLING: dict[str, tuple[dict, dict]] = {
    "dit": ({"name": "ddpm"}, {"name": "respaced", "respacing": "250"}),
    "sit": (
        {"name": "flow_sde", "diffusion": "sigma", "last_step": "mean"},
        {"name": "flow", "num_steps": 250, "t_min": 0.04},
    ),
    "repa": (
        {"name": "flow_sde", "diffusion": "linear", "last_step": "mean"},
        {"name": "flow", "num_steps": 250, "t_min": 0.04},
    ),
    "jit": ({"name": "flow_heun"}, {"name": "flow", "num_steps": 50}),
    "lightningdit": ({"name": "flow_euler"}, {"name": "flow", "num_steps": 250, "shift": 1 / 0.3}),
    "ddt": ({"name": "flow_euler"}, {"name": "flow", "num_steps": 250}),
}
"""Sampler and schedule of each family, as published; SiT's are those of its best figure."""


@dataclass(frozen=True)
class Guided:
    """Published guidance: its scale, the times t in which it acts (0 data, 1 noise), the first channels it guides.

    `sampler` replaces the family's own where a figure was made with another.
    """

    guidance: float
    interval_t: tuple[float, float] | None = None
    channels: int | None = None
    sampler: str | None = None


JIT_END, DDT_END = 0.8999, 0.6999
"""Ends that are excluded, in their t 0.1 and 0.3, and are points of their grids."""

GUIDED: dict[str, Guided] = {
    "dit-xl-2-256": Guided(1.5, channels=3),
    "dit-xl-2-512": Guided(1.5, channels=3),
    "sit-xl-2-256-ode": Guided(1.5, channels=3, sampler="dopri5"),
    "sit-xl-2-256-sde": Guided(1.5, channels=3),
    "sit-xl-2-512-sde": Guided(1.5, channels=3),
    "repa-sit-xl-2-256": Guided(1.8, (0.0, 0.7)),
    "repa-e-sit-xl-1-256": Guided(2.5, (0.0, 0.75)),
    "jit-b-16-256": Guided(2.9, (0.0, JIT_END)),
    "jit-b-32-512": Guided(2.9, (0.0, JIT_END)),
    "jit-l-16-256": Guided(2.4, (0.0, JIT_END)),
    "jit-l-32-512": Guided(2.5, (0.0, JIT_END)),
    "jit-h-16-256": Guided(2.2, (0.0, JIT_END)),
    "jit-h-32-512": Guided(2.3, (0.0, JIT_END)),
    "lightningdit-xl-1-64": Guided(10.0, (0.0, 0.9), channels=3),
    "lightningdit-xl-1-800": Guided(6.7, (0.0, 0.875), channels=3),
    "ddt-xl-2-256": Guided(2.0, (0.0, DDT_END)),
}
"""Guidance of the published figures; names are those of the training presets, with the size of the images."""
