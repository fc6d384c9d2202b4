"""How often the 95 % intervals hold the truth, in repeats of known cases.

    python benchmarks/coverage.py [--repeats=200]

Prints, of each interval that `fid.py` gives, the share of the repeats whose interval holds the truth, and the truth.
Known in closed form are the Fréchet and the kernel distance of Gaussians. Of the others the truth is what the interval
is said to be about: the mean over 2,000 other sets of as many images, with the reference (of the recall: the generated
images, whose neighbourhoods count) the same. The last line is the smallest share.
"""

import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import click
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from elucid.dnnlib import cli  # noqa: E402
from elucid.dnnlib.progress import progress_bar  # noqa: E402
from elucid.metrics.frechet import frechet_distance  # noqa: E402
from elucid.metrics.measures.collect import Collected  # noqa: E402
from elucid.metrics.measures.evaluate import Value, evaluate  # noqa: E402
from elucid.metrics.reference import Reference  # noqa: E402
from elucid.metrics.statistics import FeatureStatistics  # noqa: E402

CPU = torch.device("cpu")
OTHERS = 2000
"""Sets whose mean is the truth where there is no closed form."""


def normal(seed: int, num: int, dim: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(num, dim, generator=generator, dtype=torch.float64) * scale + shift).float()


def statistics(features: torch.Tensor) -> FeatureStatistics:
    result = FeatureStatistics(features.shape[1])
    result.update(features)
    return result


def measured(metric: str, made: torch.Tensor, reference: Reference | None) -> dict[str, Value]:
    """What `fid.py calc --metrics=METRIC --interval` computes, by name."""
    found = Collected(len(made), {"features": statistics(made)}, {"features": made, "logits": made})
    return {value[0]: value for value in evaluate([metric], found, reference, True, CPU)}


def reference_of(features: torch.Tensor) -> Reference:
    own = statistics(features)
    return Reference("features", own.mean, own.covariance, "features", features=features)


def frechet(seed: int) -> dict[str, Value]:
    """1,000 images of N(0.5, 1.4^2) in 3 dimensions against N(0, 1), which is known."""
    exact = Reference("exact", torch.zeros(3), torch.eye(3), "exact")
    return measured("fid", normal(seed, 1000, 3, 1.4, 0.5), exact)


def kernel(seed: int) -> dict[str, Value]:
    """60 images of N(0, 1.5^2) in 3 dimensions against 80 of N(0, 1)."""
    real = normal(10**6 + seed, 80, 3)
    return measured("kid", normal(seed, 60, 3, 1.5), reference_of(real))


def neighbours(metric: str) -> Callable[[int], dict[str, Value]]:
    """100 images of N(0, 1.3^2) in 2 dimensions against the same 150 of N(0, 1)."""
    reference = reference_of(normal(10**6, 150, 2))
    return lambda seed: measured(metric, normal(seed, 100, 2, 1.3), reference)


def recall(seed: int) -> dict[str, Value]:
    """Other 150 real images, with the neighbourhoods of the same 100 generated ones."""
    return measured("pr", normal(10**6, 100, 2, 0.8), reference_of(normal(seed, 150, 2)))


def inception(seed: int) -> dict[str, Value]:
    """1,000 images whose logits are N(0, 2^2) of ten classes."""
    return measured("is", normal(seed, 1000, 10, 2.0), None)


CLOSED = {
    "fid": frechet_distance(torch.full((3,), 0.5), 1.96 * torch.eye(3), torch.zeros(3), torch.eye(3)),
    "kid": 3 * (1 - 1.5**2) ** 2 / 3,  # E (x.y / D + 1)^3 of Gaussians, where odd powers vanish
}
CASES: list[tuple[tuple[str, ...], Callable[[int], dict[str, Value]]]] = [
    (("fid",), frechet),
    (("kid",), kernel),
    (("precision",), neighbours("pr")),
    (("recall",), recall),
    (("density", "coverage"), neighbours("dc")),
    (("is",), inception),
]


def coverage(repeats: int, others: int, only: Iterable[str] | None = None) -> list[tuple[str, float, float, float]]:
    """Name, share of the repeats whose interval holds the truth, the truth, and the mean length of the intervals."""
    rows = []
    for names, case in CASES:
        if only is not None and not set(names) & set(only):
            continue
        found = [case(seed) for seed in progress_bar(range(repeats), desc=names[0], unit="set", delay=2)]
        closed = all(name in CLOSED for name in names)
        more = [] if closed else [case(repeats + seed) for seed in progress_bar(range(others), unit="set", delay=2)]
        for name in names:
            truth = CLOSED[name] if closed else float(np.mean([values[name][1] for values in more]))
            intervals = [values[name][2] for values in found]
            held = np.mean([low <= truth <= high for low, high in intervals])
            rows.append((name, float(held), truth, float(np.mean([high - low for low, high in intervals]))))
    return rows


@click.command()
@click.option("--repeats", default=200, show_default=True, help="Sets whose intervals are tried.")
@click.option("--others", default=OTHERS, show_default=True, help="Sets whose mean is the truth, if it is not known.")
def main(repeats: int, others: int) -> None:
    """Print how often each 95 % interval holds the truth."""
    torch.set_num_threads(1)  # small matrices
    rows = coverage(repeats, others)
    error = math.sqrt(0.95 * 0.05 / repeats)
    print(f"{repeats} repeats; the share of a true 95 % interval is 95 % +- {100 * error:.1f} %")
    for name, held, truth, length in rows:
        print(f"{name:<10} {100 * held:6.1f} %   truth {truth:10.5g}   mean length {length:9.4g}")
    print(f"{100 * min(held for _, held, _, _ in rows):.1f}")


if __name__ == "__main__":
    cli.run(main)
