"""The verdict of `evaluate.py compare` on simulated comparisons: false alarms, gaps found, trainings saved.

    python benchmarks/verdict.py [--repeats=200] [--seeds=24] [--many=5000]

A comparison is drawn from the model of the verdict: a score is the mean of its recipe, an effect of its training, and
the noise of its sampling seed. "Saved" is against the smallest fixed number of trainings with the same error rates.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from scipy import stats

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from elucid.dnnlib import cli  # noqa: E402
from elucid.evaluation.compare.groups import Group  # noqa: E402
from elucid.evaluation.compare.sequential import Design, design  # noqa: E402
from elucid.evaluation.compare.verdict import DIFFERENT, NOT_DIFFERENT, Rules, judged, judged_in_turn  # noqa: E402

SAMPLING_SEEDS = 3
TRAINING, SAMPLING = 0.8, (SAMPLING_SEEDS * (1 - 0.8**2)) ** 0.5
"""Standard deviations of the two parts; that of a training's mean over its sampling seeds is 1."""
FIRST_LOOK = 3
SKEW = 0.5
"""Standard deviation of the logarithm of log-normal noise: its skewness is 1.75."""


def normal(rng: np.random.Generator, size: int) -> np.ndarray:
    return rng.standard_normal(size)


def log_normal(rng: np.random.Generator, size: int) -> np.ndarray:
    """Draw skewed noise with mean 0 and standard deviation 1."""
    mean, variance = np.exp(SKEW**2 / 2), np.exp(SKEW**2) * np.expm1(SKEW**2)
    return (np.exp(SKEW * rng.standard_normal(size)) - mean) / variance**0.5


NOISES: dict[str, tuple[Callable, float]] = {
    "normal": (normal, 1.0),
    "log-normal": (log_normal, 1.0),
    "normal, deviations 1 : 3": (normal, 3.0),
}
"""Noise of the trainings, and the ratio of the deviations of the second recipe and the first."""


@dataclass(frozen=True)
class Outcome:
    """Shares of the answers in repeated comparisons, trainings of each recipe, and how often the interval held."""

    different: float
    not_different: float
    trainings: float
    covered: float


def drawn(rng: np.random.Generator, name: str, size: int, mean: float, deviation: float, noise: Callable) -> Group:
    """Draw a group of trainings."""
    effects = mean + deviation * TRAINING * noise(rng, size)
    sampled = deviation * SAMPLING * rng.standard_normal((size, SAMPLING_SEEDS))
    return Group(name, tuple(map(tuple, effects[:, None] + sampled)))


def repeated(
    repeats: int, gap: float, made: Design | int, noise: str = "normal", seed: int = 0, rules: Rules | None = None
) -> Outcome:
    """Judge comparisons with a true gap in standard deviations, by a sequential design or with a fixed size."""
    draw, ratio = NOISES[noise]
    rng, rules = np.random.default_rng(seed), rules or Rules()
    first, second = 1.0, ratio
    truth = gap * ((first**2 + second**2) / 2) ** 0.5
    size = made if isinstance(made, int) else made.looks[-1][0]
    answers, used, covered = [], [], []
    for _ in range(repeats):
        groups = drawn(rng, "a", size, 100.0, first, draw), drawn(rng, "b", size, 100.0 + truth, second, draw)
        one = judged("fid", *groups, rules) if isinstance(made, int) else judged_in_turn("fid", *groups, rules, made)
        assert one is not None
        answers.append(one.outcome)
        used.append(one.first.size)
        covered.append(one.interval[0] <= truth <= one.interval[1])
    share = {outcome: answers.count(outcome) / repeats for outcome in (DIFFERENT, NOT_DIFFERENT)}
    return Outcome(share[DIFFERENT], share[NOT_DIFFERENT], float(np.mean(used)), float(np.mean(covered)))


def fixed_power(size: int, gap: float, alpha: float) -> float:
    """Return the power of Student's t-test with fixed groups."""
    df, shift = 2 * size - 2, gap * (size / 2) ** 0.5
    limit = stats.t.isf(alpha / 2, df)
    return float(stats.nct.sf(limit, df, shift) + stats.nct.cdf(-limit, df, shift))


def fixed_size(power: float, gap: float, alpha: float) -> tuple[int, float]:
    """Return the smallest fixed size with at least this power, whole and interpolated."""
    size = 2
    while fixed_power(size, gap, alpha) < power:
        size += 1
    low, high = fixed_power(size - 1, gap, alpha), fixed_power(size, gap, alpha)
    return size, size - 1 + (power - low) / (high - low)


@click.command()
@click.option("--repeats", type=cli.Count(min=10), default=200, show_default=True, help="Comparisons of each kind.")
@click.option("--many", type=cli.Count(min=10), default=5000, show_default=True, help="And again with so many.")
@click.option("--seeds", type=cli.Count(min=4), default=24, show_default=True, help="Most trainings of a recipe.")
@click.option("--gap", type=float, default=2.0, show_default=True, help="True gap, in standard deviations.")
@click.option("--seed", type=int, default=0, show_default=True)
def main(repeats: int, many: int, seeds: int, gap: float, seed: int) -> None:
    """Print the error rates of the sequential and the fixed test, and what stopping saves."""
    began = time.monotonic()
    made = design(tuple((size, size) for size in range(FIRST_LOOK, seeds + 1)), gap)
    seconds = time.monotonic() - began
    print(f"alpha {made.alpha}, beta {made.beta}; limits of {FIRST_LOOK} to {seeds} trainings each in {seconds:.1f} s")
    whole, between = fixed_size(made.power, gap, made.alpha)
    print(f"as many gaps of {gap:g} ({100 * made.power:.1f} %) are found by {whole} trainings each ({between:.2f})")
    for number in (repeats, many):
        print(f"\nsequential, {number} comparisons", *COLUMNS, sep="".rjust(3))
        for noise in NOISES:
            equal, apart = (repeated(number, one, made, noise, seed) for one in (0.0, gap))
            row(noise, equal.different, apart.different, apart.not_different, equal.covered, apart.covered)
            means = [equal.trainings, apart.trainings, (equal.trainings + apart.trainings) / 2]
            saved = [", ".join(f"{100 * (1 - one / fixed):.1f}" for one in means) for fixed in (whole, between)]
            said = ", ".join(f"{one:.2f}" for one in means)
            print(f"      trainings each if equal, apart, mean: {said}")
            print(f"      saved of {whole} each: {saved[0]} %; of {between:.2f}: {saved[1]} %")
    print(f"\nfixed, {many} comparisons", *COLUMNS, sep="".rjust(3))
    for size in (3, 5, 10):
        for noise in NOISES:
            equal, apart = (repeated(many, one, size, noise, seed) for one in (0.0, gap))
            name = f"{size} each, {noise}"
            row(name, equal.different, apart.different, apart.not_different, equal.covered, apart.covered)
            print(f"      not different if equal: {100 * equal.not_different:.1f} %")


COLUMNS = ("false alarms", "gap found", "gap missed", "interval holds: equal", "apart")


def row(name: str, *shares: float) -> None:
    """Print shares in percent."""
    print(f"  {name:32}", "".join(f"{100 * share:10.1f} %" for share in shares))


if __name__ == "__main__":
    cli.run(main)
