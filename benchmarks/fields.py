"""Synthetic fields of eight channels whose covariance is known, and how samples of a model agree with it.

    python -m benchmarks.fields make --outdir=OUT [--num=4000]
    python train.py --data=OUT/train.zip --outdir=OUT/run --nosubdir ...      (recipe: docs/how-to/arrays.md)
    python generate.py --network=OUT/run --outdir=OUT/samples --seeds=0-511
    python -m benchmarks.fields judge --samples=OUT/samples --png=fields.png
    python -m benchmarks.fields downscaling --outdir=OUT --samples=OUT/downscaled --members=16

`make` writes `train.zip`, `test.zip` and, for downscaling, their means of 4x4 pixels, `train-low.zip` and
`test-low.zip`. A field is mean + deviation * (A g): A mixes eight independent Gaussian fields g of 64x64 pixels,
periodic, of variance 1 and with a spectrum of their own. So the spectrum of each channel, the correlation of channels,
and the distribution of a field given its means of 4x4 pixels are known exactly, and `judge` and `downscaling` compare
with them.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from elucid.evaluation.ensemble.scores import crps
from elucid.preparation.writer import archive_name, open_destination
from elucid.training.data import npy
from elucid.training.data.dataset import open_dataset

SIDE, FACTOR, CHANNELS = 64, 4, 8
NAMES = ["u", "v", "t", "q", "z", "p", "r", "s"]
UNITS = ["m/s", "m/s", "K", "kg/kg", "m2/s2", "Pa", "mm", "1"]
MEAN = np.array([2.0, -1.0, 280.0, 0.008, 54_000.0, 101_300.0, 3.0, 0.0])
STD = np.array([8.0, 6.0, 12.0, 0.004, 1_500.0, 900.0, 2.0, 1.0])
SLOPES = np.linspace(2.0, 4.0, CHANNELS)
"""Exponents of the power spectra of the independent fields, k^-slope beyond wave number 2."""


def mixing() -> np.ndarray:
    """Return A [8,8], with rows of length 1: correlation A A^T of the channels where spectra are alike."""
    matrix = np.eye(CHANNELS) + 0.45 * np.random.default_rng(7).normal(size=(CHANNELS, CHANNELS))
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def spectra() -> np.ndarray:
    """Return the variance [8,64,64] of each Fourier mode of the independent fields, which sum to 1."""
    frequency = np.fft.fftfreq(SIDE, 1 / SIDE)
    wave = np.hypot(*np.meshgrid(frequency, frequency, indexing="ij"))
    power = np.stack([(4 + wave**2) ** (-slope / 2 - 0.5) for slope in SLOPES])
    power[:, 0, 0] = 0
    return power / power.sum((1, 2), keepdims=True)


def drawn(count: int, seed: int) -> np.ndarray:
    """Return fields f32[count,8,64,64] in their units."""
    noise = np.random.default_rng(seed).normal(size=(count, CHANNELS, SIDE, SIDE))
    g = np.fft.ifft2(np.fft.fft2(noise) * np.sqrt(spectra()) * SIDE).real
    mixed = np.einsum("ij,njhw->nihw", mixing(), g)
    return (MEAN[:, None, None] + STD[:, None, None] * mixed).astype(np.float32)


def shrunk(fields: np.ndarray) -> np.ndarray:
    """Return the means of 4x4 pixels."""
    count, low = len(fields), SIDE // FACTOR
    return fields.reshape(count, -1, low, FACTOR, low, FACTOR).mean((3, 5), dtype=np.float64).astype(np.float32)


def write(path: Path, fields: np.ndarray) -> None:
    """Write a dataset, normalised by the mean and deviation that the fields were made with."""
    encoder = {"name": "arrays", "mean": MEAN.tolist(), "std": STD.tolist(), "channel_names": NAMES, "units": UNITS}
    with open_destination(path, overwrite=True) as add:
        for index, field in enumerate(fields):
            add(archive_name(index, npy.SUFFIX), npy.to_npy(field))
        add("dataset.json", json.dumps({"labels": None, "encoder": encoder}).encode())


def make(outdir: Path, num: int, test: int) -> None:
    """Write the fields for training and for tests, and their means."""
    outdir.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", num, 1), ("test", test, 2)):
        fields = drawn(count, seed)
        write(outdir / f"{name}.zip", fields)
        write(outdir / f"{name}-low.zip", shrunk(fields))
        print(f"{outdir / name}.zip: {count} fields of {CHANNELS} channels, {SIDE}x{SIDE}, and their means of 4x4")


def read(path: Path) -> np.ndarray:
    """Return all arrays of a dataset or folder of samples."""
    data = open_dataset(path, arrays=True)
    return np.stack([data.image(index) for index in range(len(data))])


def normalised(fields: np.ndarray) -> np.ndarray:
    return (fields.astype(np.float64) - MEAN[:, None, None]) / STD[:, None, None]


def radial(power: np.ndarray) -> np.ndarray:
    """Return the mean power [.., 32] in rings of wave numbers 1 to 32 of [.., 64, 64]."""
    frequency = np.fft.fftfreq(SIDE, 1 / SIDE)
    ring = np.rint(np.hypot(*np.meshgrid(frequency, frequency, indexing="ij"))).astype(int)
    return np.stack([power[..., ring == k].mean(-1) for k in range(1, SIDE // 2 + 1)], axis=-1)


def truth() -> tuple[np.ndarray, np.ndarray]:
    """Return the spectra [8,32] of the normalised channels, and their correlation [8,8]."""
    matrix, power = mixing(), spectra()
    return radial(np.einsum("ij,jhw->ihw", matrix**2, power)), matrix @ matrix.T


def judge(samples: Path, png: Path | None) -> dict[str, float]:
    """Compare spectra and correlations of samples with the truth."""
    fields = normalised(read(samples))
    power = radial((np.abs(np.fft.fft2(fields) / SIDE**2) ** 2).mean(0))
    flat = fields.transpose(1, 0, 2, 3).reshape(CHANNELS, -1)
    correlation, (wanted, matrix) = np.corrcoef(flat), truth()
    log = np.log2(power / wanted)
    found = {
        "samples": len(fields),
        "deviation, least": float(fields.std((0, 2, 3)).min()),
        "deviation, largest": float(fields.std((0, 2, 3)).max()),
        "spectrum, rms of log2, k 1-16": float(np.sqrt((log[:, :16] ** 2).mean())),
        "spectrum, rms of log2, all k": float(np.sqrt((log**2).mean())),
        "correlation, rms error": float(np.sqrt(((correlation - matrix)[~np.eye(CHANNELS, dtype=bool)] ** 2).mean())),
        "correlation, largest error": float(np.abs(correlation - matrix).max()),
    }
    for name, value in found.items():
        print(f"{name:32} {value:.4g}")
    if png is not None:
        picture(fields, power, wanted, correlation, matrix).save(png)
    return found


def picture(fields, power, wanted, correlation, matrix) -> Image.Image:
    """Draw fields (truth above, samples below), spectra (truth thick and light), and both correlation matrices."""
    from elucid.training.sampling.output.colours import colour_table

    table, real = colour_table("balance"), normalised(drawn(2, 3))
    canvas = Image.new("RGB", (1120, 760), "white")
    draw = ImageDraw.Draw(canvas)

    def put(values: np.ndarray, corner: tuple[int, int], side: int, limit: float) -> None:
        shown = table[np.clip((values / limit + 1) * 127.5, 0, 255).astype(np.uint8)]
        canvas.paste(Image.fromarray(shown).resize((side, side), Image.Resampling.NEAREST), corner)

    for row, (name, rows) in enumerate((("truth", real), ("samples", fields[:2]))):
        for place, one in enumerate(rows):
            draw.text((6, 6 + (2 * row + place) * 90), name, fill="black")
            for channel, values in enumerate(one):
                put(values, (60 + 72 * channel, 20 + (2 * row + place) * 90), 64, 2.5)
    for channel, name in enumerate(NAMES):
        draw.text((86 + 72 * channel, 4), name, fill="black")
    for index, (name, values) in enumerate((("correlation, truth", matrix), ("correlation, samples", correlation))):
        draw.text((680 + 220 * index, 4), name, fill="black")
        put(values, (680 + 220 * index, 20), 200, 1.0)
    left, top, width, height = 60, 400, 1040, 330
    ticks = np.log2([1, 2, 4, 8, 16, 32]) / 5
    low, high = np.log10(wanted.min()) - 0.5, np.log10(wanted.max()) + 0.5
    for tick, k in zip(ticks, (1, 2, 4, 8, 16, 32), strict=True):
        x = left + tick * width
        draw.line([(x, top), (x, top + height)], fill="#dddddd")
        draw.text((x - 4, top + height + 4), str(k), fill="black")
    draw.text((left, top - 16), "power by wave number; light: truth, dark: samples; a colour a channel", fill="black")
    hues = [tuple(colour_table("heat")[40 + 24 * channel]) for channel in range(CHANNELS)]
    places = left + np.log2(np.arange(1, 33)) / 5 * width
    for values, thick, light in ((wanted, 7, 0.65), (power, 2, 0.0)):
        for channel, curve in enumerate(values):
            colour = tuple(int(one + (255 - one) * light) for one in hues[channel])
            heights = top + height * (1 - (np.log10(curve) - low) / (high - low))
            draw.line(list(zip(places, heights, strict=True)), fill=colour, width=thick)
    return canvas


def posterior(low: np.ndarray, members: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mean [N,8,64,64] and `members` exact draws [N,K,...] of normalised fields given normalised means of 4x4.

    The independent fields g are those of A^-1 x, and of each of them the means are g's; so fields are independent given
    them: E[g | low] = S B^T (B S B^T)^-1 low, and draws by Matheron's rule from prior draws.
    """
    inverse, side = np.linalg.inv(mixing()), SIDE // FACTOR
    power = spectra()
    given = np.einsum("ij,njhw->nihw", inverse, low)
    rng = np.random.default_rng(seed)
    rows = np.eye(side * side).reshape(-1, side, side)
    spread = np.repeat(np.repeat(rows, FACTOR, 1), FACTOR, 2) / FACTOR**2  # B^T
    means, draws = [], []
    for channel in range(CHANNELS):
        covariance = np.fft.ifft2(np.fft.fft2(spread) * power[channel] * SIDE**2).real  # S B^T as rows
        inner = shrunk64(covariance).reshape(side * side, -1)
        gain = np.linalg.solve(inner + 1e-12 * np.eye(len(inner)), covariance.reshape(len(inner), -1))
        prior = np.fft.ifft2(
            np.fft.fft2(rng.normal(size=(len(low) * members, SIDE, SIDE))) * np.sqrt(power[channel]) * SIDE
        ).real
        rest = np.repeat(given[:, channel], members, 0) - shrunk64(prior)
        means.append((given[:, channel].reshape(len(low), -1) @ gain).reshape(-1, SIDE, SIDE))
        draws.append(prior + (rest.reshape(len(rest), -1) @ gain).reshape(-1, SIDE, SIDE))
    back = mixing()
    mean = np.einsum("ij,jnhw->nihw", back, np.stack(means))
    drawn_ones = np.einsum("ij,jnhw->nihw", back, np.stack(draws)).reshape(len(low), members, CHANNELS, SIDE, SIDE)
    return mean, drawn_ones


def shrunk64(fields: np.ndarray) -> np.ndarray:
    """Return the means of 4x4 pixels of [N,64,64], in float64."""
    low = SIDE // FACTOR
    return fields.reshape(len(fields), low, FACTOR, low, FACTOR).mean((2, 4))


def score(ensemble: np.ndarray, truth_of: np.ndarray) -> float:
    """Return the fair CRPS of [N,K,...] for [N,...], the absolute error of a single member."""
    deviations = np.moveaxis(ensemble, 1, 0) - truth_of
    return float(np.abs(deviations).mean() if len(deviations) == 1 else crps(deviations)[1].mean())


def downscaling(outdir: Path, samples: Path, members: int) -> None:
    """Compare samples given their means with the interpolated means, climate, and the exact distribution."""
    fields, low = normalised(read(outdir / "test.zip")), normalised(read(outdir / "test-low.zip"))
    found = normalised(read(samples))
    count = len(found) // members
    fields, low, found = fields[:count], low[:count], found.reshape(count, members, *fields.shape[1:])
    smooth = torch.nn.functional.interpolate(torch.from_numpy(low), size=(SIDE, SIDE), mode="bilinear").numpy()
    mean, exact = posterior(low, members, 5)
    rows = {
        "climate (other fields)": normalised(drawn(count * members, 9)).reshape(found.shape),
        "interpolated means": smooth[:, None],
        "mean of the exact distribution": mean[:, None],
        "exact distribution": exact,
        "the model": found,
    }
    print(f"{count} fields, {members} members; in deviations of the channels")
    print(f"{'':32} {'CRPS':>8} {'RMSE of mean':>13} {'spread':>8} {'error of means of 4x4':>22}")
    for name, ensemble in rows.items():
        error = np.sqrt(((ensemble.mean(1) - fields) ** 2).mean())
        spread = np.sqrt(ensemble.var(1, ddof=1).mean()) if ensemble.shape[1] > 1 else 0.0
        block = np.stack([shrunk(one) for one in ensemble])  # agreement with what was given
        given = np.sqrt(((block - low[:, None]) ** 2).mean())
        print(f"{name:32} {score(ensemble, fields):8.4f} {error:13.4f} {spread:8.4f} {given:22.4f}")


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["make", "judge", "downscaling"])
    parser.add_argument("--outdir", type=Path)
    parser.add_argument("--samples", type=Path)
    parser.add_argument("--num", type=int, default=4000)
    parser.add_argument("--test", type=int, default=64)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--png", type=Path)
    given = parser.parse_args(argv)
    if given.what == "make":
        make(given.outdir, given.num, given.test)
    elif given.what == "judge":
        judge(given.samples, given.png)
    else:
        downscaling(given.outdir, given.samples, given.members)


if __name__ == "__main__":
    main()
