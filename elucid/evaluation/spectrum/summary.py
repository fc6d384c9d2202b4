"""Tables and curves of spectra: the distance of each channel, and how channels belong together."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from elucid.dnnlib.errors import UserError
from elucid.evaluation.results import Curve, Result, Series, Table
from elucid.evaluation.spectrum.collect import Spectra, jackknife_variance
from elucid.evaluation.spectrum.distance import ChannelDistance, Distance, distances, together
from elucid.evaluation.spectrum.modes import octave_text

MOST_DRAWN = 8
"""Channels that are drawn: those with the largest distance."""
MOST_MATRIX = 8
"""Channels whose correlations are printed as a matrix."""
MOST_PAIRS = 12
"""Pairs of channels in a table: those that differ most."""

UNITS = {True: "power, unit^2 pixel", False: "power, unit^2 pixel^2"}


def summarise(samples: Spectra, data: Spectra, names: Sequence[str]) -> Result:
    """Return the result; its value is the root mean square over channels of the distance of log spectra, in decibels.

    Raises UserError if all channels are constant.
    """
    found = distances(samples, data)
    known = {name: one for name, one in zip(names, found, strict=True) if one is not None}
    if not known:
        raise UserError("all channels are constant in `images` or in `data`, so there is no spectrum to compare")
    lines = [f"{samples.num} samples and {data.num} images of the data; 95 % intervals are over images"]
    if len(known) < len(names):
        lines.append(f"constant, and left out: {', '.join(name for name in names if name not in known)}")
    overall = together(list(known.values()))
    tables = [_distances(known, overall)]
    if len(names) > 1:
        tables += _together(samples, data, names)
    drawn = sorted(known, key=lambda name: known[name].value, reverse=True)[:MOST_DRAWN]
    drawn = [name for name in names if name in drawn]
    curves = [_spectrum(samples, data, name, names.index(name)) for name in drawn]
    curves.append(_ratios(samples, {name: known[name] for name in drawn}))
    about: dict[str, Any] = {"num_images": samples.num, "data_images": data.num, "channels": list(names)}
    return Result(
        "spectrum",
        "log_spectral_distance_db",
        overall.value,
        overall.interval,
        tuple(lines),
        tuple(tables),
        tuple(curves),
        about=about,
    )


def _distances(known: dict[str, ChannelDistance], overall: Distance) -> Table:
    rows: list[tuple[Any, ...]] = [
        (name, one.value, *one.interval, one.noise, *_extreme(one)) for name, one in known.items()
    ]
    if len(known) > 1:
        rows.append(("all, root mean square", overall.value, *overall.interval, None, None, None))
    columns = ("channel", "distance", "low", "high", "chance alone", "least power", "most power")
    return Table("Log spectra of samples and data, in decibels; 0 is best", columns, tuple(rows))


def _extreme(one: ChannelDistance) -> tuple[float, float]:
    return float(np.nanmin(one.ratio)), float(np.nanmax(one.ratio))


def _spectrum(samples: Spectra, data: Spectra, name: str, channel: int) -> Curve:
    series = []
    for what, one in (("data", data), ("samples", samples)):
        power, without = (values[..., channel, :] for values in one.power())
        factor = 10 ** (0.196 * np.sqrt(jackknife_variance(10 * np.log10(np.maximum(without, 1e-300)))))
        points = zip(one.modes.frequencies.tolist(), power.tolist(), strict=True)
        limits = zip((power / factor).tolist(), (power * factor).tolist(), strict=True)
        series.append(Series(what, tuple(points), tuple(limits)))
    x = "frequency, cycles per pixel"
    return Curve(f"Power spectrum, channel {name}", x, UNITS[data.modes.lines], tuple(series), log_x=True, log_y=True)


def _ratios(samples: Spectra, drawn: dict[str, ChannelDistance]) -> Curve:
    series = []
    for name, one in drawn.items():
        there = np.flatnonzero(~np.isnan(one.ratio))
        at, ratio, half = (values[there] for values in (samples.modes.frequencies, one.ratio, 1.96 * one.error))
        points = tuple(zip(at.tolist(), ratio.tolist(), strict=True))
        series.append(Series(name, points, tuple(zip((ratio - half).tolist(), (ratio + half).tolist(), strict=True))))
    title, x = "Power of samples over that of data", "frequency, cycles per pixel"
    return Curve(title, x, "ratio, dB", tuple(series), log_x=True)


def _together(samples: Spectra, data: Spectra, names: Sequence[str]) -> list[Table]:
    """Return how channels belong together in both sets: correlation, and coherence by octave of frequency."""
    pairs = [(a, b) for a in range(len(names)) for b in range(a)]
    of = {"samples": samples.correlation(), "data": data.correlation()}
    tables = []
    if len(names) <= MOST_MATRIX:
        for what, (matrix, _) in of.items():
            rows = tuple((name, *map(_known, row)) for name, row in zip(names, matrix, strict=True))
            tables.append(Table(f"Correlation of channels, {what}", ("", *names), rows))
    compared = [
        (f"{names[b]}, {names[a]}", *_difference(*(part[..., a, b] for one in of.values() for part in one)))
        for a, b in pairs
    ]
    columns = ("samples", "data", "difference", "+-")
    tables.append(Table("Correlation of channels", ("channels", *columns), _most_different(compared)))
    both = [*samples.coherence(), *data.coherence()]
    octaves = samples.modes.octaves
    by_octave = [
        (
            f"{names[b]}, {names[a]}",
            octave_text(octave, octaves[-1]),
            *_difference(*(part[..., place, a, b] for part in both)),
        )
        for a, b in pairs
        for place, octave in enumerate(octaves)
    ]
    title = "Coherence of channels, by frequency in cycles per pixel"
    tables.append(Table(title, ("channels", "octave", *columns), _most_different(by_octave)))
    return tables


def _difference(
    samples: np.ndarray, without_samples: np.ndarray, data: np.ndarray, without_data: np.ndarray
) -> tuple[float, float, float, float]:
    """Return both values, their difference, and half of its 95 % interval."""
    variance = jackknife_variance(without_samples) + jackknife_variance(without_data)
    return float(samples), float(data), float(samples - data), 1.96 * math.sqrt(float(variance))


def _most_different(rows: list[tuple]) -> tuple[tuple, ...]:
    """Return rows that end with a difference and its uncertainty, largest difference first, without unknown ones."""
    known = [row for row in rows if not math.isnan(row[-2])]
    return tuple(sorted(known, key=lambda row: abs(row[-2]), reverse=True)[:MOST_PAIRS])


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
