"""Digits from half of their pixels, and from a quarter: posterior samples by each method, judged by a classifier.

    python -m benchmarks.inverse_digits --network=RUN --train=digits.zip --test=digits-test.zip --outdir=OUT [--png=PNG]

Of held-out digits a mask leaves the upper half, or squares of 2x2 pixels are averaged; `generate.py` draws samples of
what they were. Printed for each method: the share of samples that a support vector classifier of the training digits
takes for the true class; that of their most frequent class; the error of their mean; and the share of pixels within the
90 % interval, of those that the samples do not agree on. Beside them the classifier's share of the true digits, and of
the measurement alone. The picture has a row for each of some digits: truth, measurement, samples, their mean.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.digits import read
from elucid.evaluation.svc import PixelClassifier
from elucid.training.data.dataset import open_dataset

ROOT = Path(__file__).resolve().parent.parent
METHODS = ("tmpd", "pigdm", "diffpir", "dps", "replacement")
NOISE, SHOWN = 5, 10


def problems(images: np.ndarray, folder: Path) -> dict[str, tuple[str, np.ndarray, np.ndarray]]:
    """Return, of each problem, the operator's text, measurements, and what they say by themselves u8[N,1,H,W]."""
    height, width = images.shape[2:]
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[: height // 2] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    noise = np.random.default_rng(0).normal(size=images.shape)
    known = np.where(mask > 0, images + NOISE * noise, 0)
    small = images.reshape(len(images), 1, height // 2, 2, width // 2, 2).mean((3, 5))
    small = small + NOISE * noise[:, :, : height // 2, : width // 2]
    large = small.repeat(2, axis=2).repeat(2, axis=3)
    return {
        "upper half": (f"inpaint:{folder / 'mask.png'}", known, known.clip(0, 255).astype(np.uint8)),
        "a quarter of the pixels": ("superres:2", small, large.clip(0, 255).astype(np.uint8)),
    }


def sampled(network: str, operator: str, measured: Path, method: str, out: Path, members: int, count: int) -> float:
    """Draw samples, those that are missing; returns the seconds that it took."""
    command = [sys.executable, str(ROOT / "generate.py"), f"--network={network}", f"--outdir={out}"]
    command += [f"--operator={operator}", f"--measurement={measured}", f"--measurement_noise={NOISE}"]
    command += [f"--posterior={method}", f"--members={members}", f"--seeds=0-{count * members - 1}", "--steps=18"]
    command += ["--class_policy=none", f"--summary={out}.npz"]
    started = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.monotonic() - started


def shares(found: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the share of samples [N,K] of the true class, and that of the most frequent ones."""
    most = np.array([np.bincount(row).argmax() for row in found])
    return float((found == labels[:, None]).mean()), float((most == labels).mean())


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("network", "train", "test", "outdir"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--members", type=int, default=19)
    parser.add_argument("--count", type=int, default=50, help="digits")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--png", type=Path)
    given = parser.parse_args(argv)
    folder = Path(given.outdir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = (part[: given.count] for part in read(given.test))
    known = PixelClassifier(*read(given.train), 10.0, "scale")
    print(f"real digits: {100 * known.agreement(images, labels):.1f} % recognised")
    pictures = []
    for problem, (operator, measured, alone) in problems(images.astype(np.float64), folder).items():
        place = folder / problem.replace(" ", "-")
        place.mkdir(exist_ok=True)
        for index, one in enumerate(measured):
            np.save(place / f"{index:06d}.npy", one.astype(np.float32))
        print(f"\n{problem}: the measurement alone {100 * known.agreement(alone, labels):.1f} %")
        print(f"{'':12} {'samples':>8} {'most':>7} {'RMSE of mean':>13} {'in 90 %':>8} {'seconds':>8}")
        for method in given.methods.split(","):
            out = folder / f"{place.name}-{method}"
            prior, size = str(Path(given.network).resolve()), (given.members, len(images))
            seconds = sampled(prior, operator, place, method, out, *size)
            data = open_dataset(out)
            samples = np.stack([data.image(index) for index in range(len(data))])
            found = known.predict(samples).reshape(len(images), given.members)
            told, whole = shares(found, labels), np.load(f"{out}.npz")
            error = np.sqrt(((whole["mean"] - images) ** 2).mean())
            hidden = whole["std"] > 1  # where there is anything to know
            inside = ((images >= whole["low"]) & (images <= whole["high"]))[hidden].mean()
            line = f"{method:12} {100 * told[0]:6.1f} % {100 * told[1]:5.1f} % {error:13.1f}"
            print(f"{line} {100 * inside:6.1f} % {seconds:8.0f}", flush=True)
            if method == given.methods.split(",")[0]:
                grouped = samples.reshape(len(images), given.members, *images.shape[1:])
                pictures.append((images.astype(np.uint8), alone, grouped, whole["mean"]))
    if given.png is not None:
        side_by_side(pictures).save(given.png)


def side_by_side(problems_of: list) -> Image.Image:
    """Draw rows of truth, measurement, eight samples and their mean, the problems beside one another."""
    blocks = []
    for images, alone, samples, mean in problems_of:
        rows = []
        for index in range(min(SHOWN, len(images))):
            cells = [images[index], alone[index], *samples[index, :8], mean[index].clip(0, 255).astype(np.uint8)]
            rows.append(np.concatenate([np.pad(cell[0], 1, constant_values=90) for cell in cells], axis=1))
        blocks.append(np.pad(np.concatenate(rows, axis=0), ((0, 0), (0, 4)), constant_values=255))
    whole = np.concatenate(blocks, axis=1)
    return Image.fromarray(whole).resize((whole.shape[1] * 4, whole.shape[0] * 4), Image.Resampling.NEAREST)


if __name__ == "__main__":
    main()
