"""How often the 95 % intervals of `evaluate.py ensemble` hold the truth, and how often its test of ranks is wrong.

    python benchmarks/ensemble_coverage.py [--repeats=200]

Calibrated ensembles of N conditions, whose pixels depend on each other: 70 % of a field's variance is one number for
all of it. The truth is known in closed form. `pixels` are the intervals that would follow from independent pixels.
The last line is the smallest share of the intervals over conditions.
"""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from elucid.dnnlib import cli  # noqa: E402
from elucid.dnnlib.progress import progress_bar  # noqa: E402
from elucid.evaluation.ensemble.measure import Ensembles  # noqa: E402
from elucid.evaluation.ensemble.summary import summarise  # noqa: E402
from elucid.metrics.wilson import interval as wilson  # noqa: E402

MEMBERS, SIDE, COMMON = 9, 4, 0.7
EXPECTED = {
    "rmse": math.sqrt(1 + 1 / MEMBERS),
    "ratio": 1.0,
    "crps": 1 / math.sqrt(math.pi),
    "50 %": 50.0,
    "80 %": 80.0,
}
"""Of N(0, 1): error of the mean, ratio to it of the spread, CRPS, and coverage."""


def smooth(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Fields of variance 1 whose pixels depend on each other."""
    common = random.normal(size=(*shape[:-2], 1, 1))
    return math.sqrt(COMMON) * common + math.sqrt(1 - COMMON) * random.normal(size=shape)


def found(seed: int, num: int) -> tuple[dict[str, tuple[float, float]], tuple[float, float], float]:
    """Return the intervals of one evaluation of `num` conditions, that of independent pixels, and the test's p."""
    random, ensembles = np.random.default_rng(seed), Ensembles(MEMBERS, 1)
    for _ in range(num):
        centre = 3 * smooth(random, 1, SIDE, SIDE)
        ensembles.add(centre + smooth(random, MEMBERS, 1, SIDE, SIDE), centre + smooth(random, 1, SIDE, SIDE))
    errors, scores, coverage, flatness = (table.rows[0] for table in summarise(ensembles, ["x"]).tables)
    intervals = {"rmse": errors[3:5], "ratio": errors[7:9], "crps": scores[2:4]}
    intervals |= {"50 %": coverage[2:4], "80 %": coverage[5:7]}
    low, high = wilson(coverage[1] / 100, num * SIDE**2)
    return intervals, (100 * low, 100 * high), flatness[3]


def shares(num: int, repeats: int) -> Iterator[tuple[str, float]]:
    """Yield what was tried with `num` conditions, and the share of the repeats in which it was right."""
    every = [found(seed, num) for seed in progress_bar(range(repeats), desc=f"{num} conditions", unit="set", delay=2)]
    for name, value in EXPECTED.items():
        yield name, float(np.mean([low <= value <= high for low, high in (one[0][name] for one in every)]))
    yield "50 %, pixels", float(np.mean([low <= 50 <= high for _, (low, high), _ in every]))
    yield "flat", float(np.mean([p >= 0.05 for *_, p in every]))


@click.command()
@click.option("--repeats", default=200, show_default=True, help="Sets of ensembles that are tried.")
def main(repeats: int) -> None:
    """Print how often each 95 % interval holds the truth."""
    least = 1.0
    print(f"{repeats} repeats; a true 95 % is 95 % +- {100 * math.sqrt(0.95 * 0.05 / repeats):.1f} %")
    for num in (5, 10, 20, 50, 200):
        for name, share in shares(num, repeats):
            print(f"{num:4} conditions  {name:<14} {100 * share:6.1f} %")
            least = share if name in EXPECTED and share < least else least
    print(f"{100 * least:.1f}")


if __name__ == "__main__":
    cli.run(main)
