"""How fast pictures are prepared with one core and with several: images/s and their ratio.

    python benchmarks/preparation.py [--workers=2] [--seconds=5] [--rounds=3]

The pictures are made here: smooth gradients, texture at several scales and fine noise, whose files are about as large
as a photograph's. Measured is what `dataset_tool.py` does once its workers have started: read, decode, convert,
transform, encode, write to a zip.
"""

import platform
import sys
import tempfile
import time
from itertools import chain, repeat
from pathlib import Path

import click
import numpy as np
import PIL
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from elucid.dnnlib import cli  # noqa: E402
from elucid.preparation import pool  # noqa: E402
from elucid.preparation.sources import open_source  # noqa: E402
from elucid.preparation.writer import archive_name, open_destination  # noqa: E402

SIDE = 512
PICTURES = 64
WARM_UP = 2.5  # seconds; longer than the tool works alone before it starts others
CASES = [  # file format, transform, resolution
    ("jpeg", None, None),
    ("jpeg", None, (256, 256)),
    ("jpeg", "center-crop-dhariwal", (64, 64)),
    ("png", None, None),
    ("png", None, (256, 256)),
]


def photograph(rng: np.random.Generator) -> Image.Image:
    """Gradients, texture that is stronger the coarser it is, as in natural pictures, and sensor noise."""
    y, x = (axis[..., None] / SIDE for axis in np.mgrid[:SIDE, :SIDE])
    angle = rng.uniform(0, 2 * np.pi, 3)
    pixels = 128 + 60 * np.sin(3 * x * np.cos(angle) + 3 * y * np.sin(angle) + angle)
    for scale in (4, 16, 64):
        cells = rng.normal(128, 10 * scale**0.4, (SIDE // scale + 1, SIDE // scale + 1, 3)).clip(0, 255)
        texture = Image.fromarray(cells.astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        pixels = pixels + np.asarray(texture, dtype=np.float64) - 128
    pixels += rng.normal(0, 4, pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def images_per_second(recipe: pool.Recipe, workers: int, seconds: float, folder: Path) -> float:
    """Speed over `seconds`, after the workers have started and their results arrive."""
    endless = list(chain.from_iterable(repeat(range(PICTURES), 100_000 // PICTURES)))
    made = pool.make_all(recipe, endless, workers)
    with open_destination(folder / "out.zip") as write:
        start, count, warm = time.perf_counter(), 0, False
        for number, (_, (_, data)) in enumerate(made):
            write(archive_name(number), data)
            count += 1
            passed = time.perf_counter() - start
            if warm and passed > seconds:
                break
            if not warm and passed > WARM_UP:
                start, count, warm = time.perf_counter(), 0, True
    made.close()
    return count / passed


@click.command()
@click.option("--workers", type=click.IntRange(min=2), default=2, show_default=True, help="Compared with one.")
@click.option("--seconds", type=float, default=5.0, show_default=True, help="Length of each measurement.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="The best of so many counts.")
def main(workers: int, seconds: float, rounds: int) -> None:
    """Print images/s with one worker and with several, and the ratio, best of the rounds."""
    rng = np.random.default_rng(0)
    versions = f"Python {platform.python_version()}, Pillow {PIL.__version__}"
    print(f"{platform.machine()}, {pool.available_cores()} cores, {versions}")
    print(f"{'case':42} {'1 worker':>9} {f'{workers} workers':>10}  ratio")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = [photograph(rng) for _ in range(PICTURES)]
        for kind in ("jpeg", "png"):
            (folder / kind).mkdir()
            for number, picture in enumerate(pictures):
                picture.save(folder / kind / f"{number:03}.{kind}", quality=85)
        for kind, transform, resolution in CASES:
            recipe = pool.Recipe(open_source(str(folder / kind)), 3, transform=transform, resolution=resolution)
            best = {1: 0.0, workers: 0.0}
            for _ in range(rounds):  # by turns, so that a busy machine is no worse for one than for the other
                for count in best:
                    best[count] = max(best[count], images_per_second(recipe, count, seconds, folder))
            what = f"{kind} {SIDE} -> {resolution[0] if resolution else SIDE} {transform or ''}"
            print(f"{what:42} {best[1]:9.1f} {best[workers]:10.1f}  {best[workers] / best[1]:.2f}", flush=True)


if __name__ == "__main__":
    cli.run(main)
