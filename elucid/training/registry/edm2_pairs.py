"""Published ways to sample EDM2's networks: which network, which guide, and how strongly it guides.

Without guidance and with that of an unconditional network: Karras et al. 2024, arXiv 2312.02696; by a smaller and less
trained network (autoguidance): arXiv 2406.02507. Each pair has the best FID or FD-DINOv2 that was found for it. Files
are not named by address: give your own copies, or networks of your own of these sizes.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePath

from elucid.dnnlib.errors import UserError, did_you_mean, note


@dataclass(frozen=True)
class Network:
    """A network by data set, size, images of training in Mi, and the relative length of its average."""

    data: str
    size: str
    mi_images: int
    std: float
    labels: bool = True

    def __str__(self) -> str:
        """The network in words, with the probable name of its public file if it has classes."""
        kind = "" if self.labels else "unconditional "
        what = f"the {kind}{self.size.upper()} network of {self.data} after {self.mi_images}Mi images, averaged with "
        file = f"edm2-{self.data}-{self.size}-{self.mi_images * 2**20 // 1000:07d}-{self.std:.3f}.pkl"
        return f"{what}length {self.std:.3f}{f' ({file})' if self.labels else ''}"


@dataclass(frozen=True)
class Pair:
    """A network, and perhaps the guide with which it is sampled: D = D_guide + guidance (D_network - D_guide)."""

    network: Network
    guide: Network | None = None
    guidance: float | None = None


LENGTHS = {"xs": 2048, "s": 2048, "m": 2048, "l": 1792, "xl": 1280, "xxl": 896}
"""Mi images of training for ImageNet-512."""
LENGTHS_64 = {"s": 1024, "m": 2048, "l": 1024, "xl": 640}

ALONE = {
    "fid": {"xs": 0.135, "s": 0.130, "m": 0.100, "l": 0.085, "xl": 0.085, "xxl": 0.070},
    "dino": {"xs": 0.200, "s": 0.190, "m": 0.155, "l": 0.155, "xl": 0.155, "xxl": 0.150},
}
"""Lengths of averages without guidance, by metric and size."""
ALONE_64 = {"s": 0.075, "m": 0.060, "l": 0.040, "xl": 0.040}

GUIDED = {
    "fid": {
        "xs": (0.045, 1.4), "s": (0.025, 1.4), "m": (0.030, 1.2), "l": (0.015, 1.2), "xl": (0.020, 1.2),
        "xxl": (0.015, 1.2),
    },
    "dino": {
        "xs": (0.150, 1.7), "s": (0.085, 1.9), "m": (0.015, 2.0), "l": (0.035, 1.7), "xl": (0.030, 1.7),
        "xxl": (0.015, 1.7),
    },
}  # fmt: skip
"""Length of both averages and scale with an unconditional XS network as guide."""

AUTOGUIDED = {
    "edm2-img512-s-autog-fid": ("img512", "s", 0.070, "xs", 128, 0.125, 2.10),
    "edm2-img512-s-autog-dino": ("img512", "s", 0.120, "xs", 128, 0.165, 2.45),
    "edm2-img512-xxl-autog-fid": ("img512", "xxl", 0.075, "m", 256, 0.155, 2.05),
    "edm2-img512-xxl-autog-dino": ("img512", "xxl", 0.130, "m", 256, 0.205, 2.30),
    "edm2-img512-s-uncond-autog-fid": ("img512", "s", 0.070, "xs", 128, 0.110, 2.85),
    "edm2-img512-s-uncond-autog-dino": ("img512", "s", 0.090, "xs", 128, 0.125, 2.90),
    "edm2-img64-s-autog-fid": ("img64", "s", 0.045, "xs", 128, 0.110, 1.70),
    "edm2-img64-s-autog-dino": ("img64", "s", 0.105, "xs", 128, 0.175, 2.20),
}
"""Data set, size, length of the average; of the guide size, Mi images, length; scale."""


def _autoguided(name: str) -> Pair:
    data, size, std, guide, mi_images, guide_std, guidance = AUTOGUIDED[name]
    labels, lengths = "-uncond-" not in name, LENGTHS if data == "img512" else LENGTHS_64
    main = Network(data, size, lengths[size], std, labels)
    return Pair(main, Network(data, guide, mi_images, guide_std, labels), guidance)


PAIRS: dict[str, Pair] = {
    **{
        f"edm2-img512-{size}-{metric}": Pair(Network("img512", size, LENGTHS[size], std))
        for metric, sizes in ALONE.items()
        for size, std in sizes.items()
    },
    **{f"edm2-img64-{size}-fid": Pair(Network("img64", size, LENGTHS_64[size], std)) for size, std in ALONE_64.items()},
    **{
        f"edm2-img512-{size}-guid-{metric}": Pair(
            Network("img512", size, LENGTHS[size], std), Network("img512", "xs", LENGTHS["xs"], std, False), guidance
        )
        for metric, sizes in GUIDED.items()
        for size, (std, guidance) in sizes.items()
    },
    **{name: _autoguided(name) for name in AUTOGUIDED},
}


def pair_of(preset: str, guide: object = None) -> Pair:
    """Return the pair of a name. Raises UserError if there is none, or if its guide is not given."""
    if preset not in PAIRS:
        raise UserError(f"`preset`={preset} is unknown{did_you_mean(preset, PAIRS)}; there are {', '.join(PAIRS)}")
    pair = PAIRS[preset]
    if pair.guide is not None and guide is None:
        raise UserError(f"`preset`={preset} needs a `guide`: {pair.guide}")
    return pair


def lengths_of_runs(preset: str, network: str, guide: str | None) -> dict[str, float]:
    """Return `ema_std` and `guide_std` of the preset, for those of the two that are folders of runs."""
    pair = PAIRS[preset]
    ends = (("ema_std", pair.network, network), ("guide_std", pair.guide, guide))
    return {name: wanted.std for name, wanted, path in ends if wanted and path and Path(path).is_dir()}


def note_other_lengths(preset: str, network: str, guide: str | None) -> None:
    """Note averages of another length than the preset's, as far as names of files tell it."""
    pair = PAIRS[preset]
    for flag, wanted, path in (("network", pair.network, network), ("guide", pair.guide, guide)):
        match = re.search(r"-(0\.\d{3,})\.pkl$", PurePath(path or "").name)
        if wanted is not None and match is not None and float(match[1]) != wanted.std:
            note(f"{flag} {PurePath(str(path)).name}: the preset {preset} is of {wanted}")
