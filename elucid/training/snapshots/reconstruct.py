"""Averages of other lengths from the snapshots of a run (Karras et al. 2024, arXiv 2312.02696, section 3)."""

import copy
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.files import is_url
from elucid.dnnlib.progress import progress_bar
from elucid.torch_utils import distributed
from elucid.training.ema.base import EMA
from elucid.training.ema.power import length_name
from elucid.training.ema.profiles import Profile, coefficients, distance, halflife, power
from elucid.training.registry.components import find
from elucid.training.snapshots.edm2_family import images_and_average
from elucid.training.snapshots.snapshot import Snapshot, load_snapshot

OF_EDM2 = re.compile(r"network-snapshot-\d{7}-\d\.\d{3}\.pkl")
"""Snapshots of EDM2's program: thousands of images, and relative length of the one average in it."""

WHOLE = 0.999
"""Integral of a profile below which an average holds too much of the first weights, which no snapshot has."""

POOR = 0.1
"""Distance of profiles above which a reconstruction is called poor."""


@dataclass(frozen=True)
class Target:
    """An average to reconstruct: its relative length `std`, or its half-life in millions of images."""

    std: float | None = None
    halflife_mimg: float | None = None

    @property
    def name(self) -> str:
        return length_name(self.std) if self.std is not None else f"{self.halflife_mimg:g}"

    def profile(self, nimg: int, rampup_ratio: float | None) -> Profile:
        if self.std is not None:
            return power(self.std, nimg)
        if not self.halflife_mimg or self.halflife_mimg <= 0:
            raise UserError(f"`halflife`={self.halflife_mimg} must be above 0 (millions of images)")
        found = halflife(self.halflife_mimg * 1e6, nimg, rampup_ratio)
        if found.integral < WHOLE:
            raise UserError(
                f"`halflife`={self.halflife_mimg:g} without a ramp-up would hold {100 - 100 * found.integral:.2g} % of "
                "the first weights, which snapshots do not have; give a shorter one"
            )
        return found


@dataclass(frozen=True)
class Source:
    """A snapshot file, the images seen by then, and the profiles of its averages."""

    path: Path
    nimg: int
    profiles: dict[str, Profile]
    halflives: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Reconstruction:
    """The averages by name in one snapshot, and how far each profile is from the wished one, as a share of it."""

    snapshot: Snapshot
    distances: dict[str, float]
    sources: tuple[str, ...]


def sources_in(folder: str | os.PathLike, at_nimg: int | None = None) -> list[Source]:
    """Return the snapshots of a run, finished or not, up to an image count, in order.

    Raises UserError if there is none, or its averages are of a kind from which others do not follow.
    """
    if is_url(folder) or not Path(folder).is_dir():
        raise UserError(f"{folder}: other averages need all snapshots of a run; give its folder")
    found, damaged = [], []
    for path in sorted(Path(folder).glob("network-snapshot-*.pkl")):
        theirs = OF_EDM2.fullmatch(path.name)
        if theirs:
            nimg, name = images_and_average(path.stem)
            found.append(Source(path, nimg, {name: power(float(name), nimg)}))
        elif re.fullmatch(r"network-snapshot-\d+(\.\d+)?\.pkl", path.name):
            try:
                snapshot = load_snapshot(path)
            except UserError as error:  # damaged, or removed since by `keep_snapshots`; the others may do
                print(f"warning: {error}; left out", file=sys.stderr)
                damaged.append(error)
                continue
            options = snapshot.options.get("ema")
            if not options or not snapshot.nimg:
                continue  # of another program, or from before the first step
            kind: type[EMA] = find("ema", options["name"])
            profiles = kind.profiles(options, snapshot.nimg)
            if all(profile.integral >= WHOLE for profile in profiles.values()):
                found.append(Source(path, snapshot.nimg, profiles, options))
    found = sorted((one for one in found if at_nimg is None or one.nimg <= at_nimg), key=lambda one: one.nimg)
    if not found and damaged:
        raise UserError(f"{folder}: none of its snapshots can be read; the first: {damaged[0]}")
    if not found:
        before = "" if at_nimg is None else f" of at most {at_nimg / 1000:g} kimg"
        raise UserError(f"{folder} has no network-snapshot-*.pkl{before} to reconstruct averages from")
    return found


def reconstruct(
    folder: str | os.PathLike,
    targets: Sequence[Target],
    at_nimg: int | None = None,
    device: torch.device | str = "cpu",
) -> Reconstruction:
    """Reconstruct averages, all together: in memory are one snapshot and a sum per target. Files are read twice, first
    for their times.

    They are those at the time of the newest snapshot, or of the newest up to `at_nimg`. Sums are in float64; buffers
    are those of that snapshot. Raises UserError for lengths that do not exist.
    """
    sources = sources_in(folder, at_nimg)
    last = sources[-1]
    ratio = last.halflives.get("rampup_ratio", 0.05)
    wished = {target.name: target.profile(last.nimg, ratio) for target in targets}
    if len(wished) < len(targets):
        raise UserError("two of the averages to reconstruct have the same name; give each length once")
    profiles = [profile for one in sources for profile in one.profiles.values()]
    factors = coefficients(profiles, list(wished.values()))
    far = {name: distance(profiles, factors[:, at], one) for at, (name, one) in enumerate(wished.items())}
    sums, snapshot = _summed(sources, factors, len(wished), device)
    emas = {}
    for name, values in zip(wished, sums, strict=True):
        denoiser = copy.deepcopy(snapshot.ema)
        with torch.no_grad():
            for parameter, value in zip(denoiser.parameters(), values, strict=True):
                parameter.copy_(value)
        emas[name] = denoiser
    return Reconstruction(replace(snapshot, emas=emas), far, tuple(one.path.name for one in sources))


def _summed(
    sources: Sequence[Source], factors: np.ndarray, count: int, device: torch.device | str
) -> tuple[list[list[Tensor]], Snapshot]:
    """Return the weighted sums of the averages in all snapshots, for each target, and the last snapshot."""
    sums: list[list[Tensor]] = []
    rows = iter(factors)
    hidden = len(sources) < 4 or not distributed.is_main()
    with progress_bar(sources, desc="averages", unit="snapshot", leave=False, disable=hidden, file=sys.stderr) as bar:
        for source in bar:
            snapshot = load_snapshot(source.path, device)
            if snapshot.emas.keys() != source.profiles.keys():
                raise UserError(f"{source.path} has changed while it was read; try again")
            for denoiser, row in zip(snapshot.emas.values(), [next(rows) for _ in source.profiles], strict=True):
                values = [one.detach().to(torch.float64) for one in denoiser.parameters()]
                sums = sums or [[torch.zeros_like(one) for one in values] for _ in range(count)]
                if [one.shape for one in values] != [one.shape for one in sums[0]]:
                    raise UserError(f"{source.path} has a network of another shape than the snapshots before it")
                for total, factor in zip(sums, row.tolist(), strict=True):
                    torch._foreach_add_(total, values, alpha=factor)
    return sums, snapshot


def length_lines(found: Reconstruction) -> list[str]:
    """Return a line for each average: how well the snapshots determine it, and why not if they do not."""
    lines = [f"averages as of {found.snapshot.nimg / 1000:g} kimg"]
    for name, far in found.distances.items():
        why = ""
        if far > POOR:
            why = ": poor; more snapshots, or averages of lengths nearer to it, would determine it better"
        lines.append(f"{name}: profile met to {100 * far:.3g} % by {len(found.sources)} snapshots{why}")
    return lines


def chosen_average(
    network: str, device: torch.device, ema: str | None, std: float | None, option: str, adm: Mapping[str, Any]
) -> Snapshot:
    """Load a snapshot with one of its averages, or with one of the length `std`, made from all snapshots of a run."""
    if std is None:
        return load_snapshot(network, device, ema, adm)
    if ema is not None:
        raise UserError(f"`ema`={ema} and `{option}`={std:g} exclude each other; give one of them")
    return reconstruct(network, [Target(std)], device=device).snapshot
