"""Bias of the methods for inverse problems where the truth is known: Gaussian images, linear operators, Gaussian noise.

    python benchmarks/inverse_gaussian.py [--steps=64] [--methods=tmpd,pigdm] [--operators=blur:1]

Prints a table for docs/inverse.md. The map of a linear method by a sampler is affine, in the noise that the sampler
adds as well, so mean and covariance of its samples are computed from its responses to unit vectors, without Monte
Carlo; only `dps` with its published step is not linear, and is sampled.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from elucid.dnnlib import cli  # noqa: E402
from elucid.dnnlib.progress import progress_bar  # noqa: E402
from elucid.training.inverse.operators.base import LinearOperator  # noqa: E402
from elucid.training.noise.schedules import Karras  # noqa: E402
from elucid.training.preconds.wrapper import BoundDenoiser, DenoiserWrapper  # noqa: E402
from elucid.training.registry.components import make  # noqa: E402
from elucid.training.samplers.base import Sampler  # noqa: E402
from elucid.training.samplers.edm import EDMSampler  # noqa: E402
from elucid.training.samplers.sde import SDESampler  # noqa: E402
from elucid.training.sampling.inverse.posterior import posterior_denoiser  # noqa: E402
from elucid.training.sampling.inverse.texts import component_of  # noqa: E402
from elucid.training.types import Prediction  # noqa: E402
from tests.oracles import CovarianceDenoiser  # noqa: E402

SHAPE = (2, 4, 4)
AFFINE = (torch.tensor([100.0, 60.0]), torch.tensor([120.0, -20.0]))
QUANTILE = 1.6448536269514722
"""Of the normal distribution, at the ends of 90 % intervals."""

DIVERGED = 10_000.0
"""An error in percent from which on a number says no more."""

SOLVED = "tolerance=1e-9,iterations=200"
METHODS = {
    "exact denoiser": None,
    "tmpd": f"tmpd,{SOLVED}",
    "pigdm": f"pigdm,{SOLVED}",
    "dps": "dps,steps={steps}",
    "dps likelihood": "dps,scale=likelihood",
    "diffpir": f"diffpir,{SOLVED}",
    "replacement": f"replacement,{SOLVED}",
}
SAMPLED = ("dps",)
"""Methods that are not linear."""


def prior() -> CovarianceDenoiser:
    """Return the denoiser of Gaussian images: smooth, with channels that go together, and a mean that is not 0."""
    channel, rows, columns = (
        one.flatten().double() for one in torch.meshgrid(*map(torch.arange, SHAPE), indexing="ij")
    )
    distance = (rows[:, None] - rows).square() + (columns[:, None] - columns).square()
    together = torch.where(channel[:, None] == channel, 1.0, 0.6)
    covariance = 0.25 * together * torch.exp(-distance.sqrt() / 2)
    mean = 0.4 * torch.cos(rows + 2 * columns + 3 * channel)
    return CovarianceDenoiser(mean.reshape(SHAPE), covariance)


@dataclass
class Case:
    """A prior, an operator in own units and the deviation of the noise, with measurements [N,...] of drawn images."""

    prior: CovarianceDenoiser
    operator: LinearOperator
    std: float
    measurements: Tensor

    @classmethod
    def drawn(cls, operator: LinearOperator, std: float, count: int) -> "Case":
        random, images = torch.Generator().manual_seed(0), prior()
        scale, offset = (one.double().reshape(-1, 1, 1) for one in AFFINE)
        clean = operator(scale * images.data(count, random) + offset)
        noise = torch.randn(clean.shape, generator=random, dtype=torch.float64)
        return cls(images, operator, std, clean + std * noise)

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Return the means [N,D] and the covariance [D,D] of normalised images given each measurement."""
        scale, offset = (one.double().reshape(-1, 1, 1) for one in AFFINE)
        size = self.prior.mean.numel()
        units = torch.eye(size, dtype=torch.float64).reshape(size, *self.prior.mean.shape)
        matrix = self.operator(scale * units).flatten(1).T
        total = matrix @ self.prior.covariance @ matrix.T + self.std**2 * torch.eye(len(matrix), dtype=torch.float64)
        gain = torch.linalg.solve(total, matrix @ self.prior.covariance).T
        expected = self.operator((scale * self.prior.mean + offset)[None])
        means = self.prior.mean.flatten() + (self.measurements - expected).flatten(1) @ gain.T
        return means, self.prior.covariance - gain @ matrix @ self.prior.covariance

    def denoiser(self, method: str | None) -> DenoiserWrapper:
        """Return the denoiser of a method, by its text, or of None the one that is exact by the closed form."""
        if method is None:
            return ExactPosterior(self)
        return posterior_denoiser(self.prior, AFFINE, self.operator, None, self.std, method)


class ExactPosterior(DenoiserWrapper):
    """mu + P (P + sigma^2)^-1 (x - mu) of the posterior N(mu, P) of the measurement in `cond`, one of the case's."""

    def __init__(self, case: Case):
        super().__init__(case.prior)
        self.case, (self.means, self.covariance) = case, case.posterior()

    def forward(self, x: Tensor, sigma, cond=None) -> Prediction:
        given = (cond or {})["measurement"].flatten(1)
        which = torch.cdist(given, self.case.measurements.flatten(1)).argmin(1)
        values, vectors = torch.linalg.eigh(self.covariance)
        sigma = torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, 1)
        part = (x.double().flatten(1) - self.means[which]) @ vectors
        x0 = self.means[which] + (part * values / (values + sigma**2)) @ vectors.T
        return Prediction(x0.reshape(x.shape))


def moments(denoiser, case: Case, sampler: Sampler, sigmas: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """Return means [N,D] of each measurement and covariance [D,D] of the samples of a linear method, exactly.

    One image for each measurement has no noise at all; the others have unit noise in one place, at the start or in one
    of the `draws` of the sampler, and the first measurement. Responses are their distances to the first image.
    """
    count, size = len(case.measurements), case.prior.mean.numel()
    units = torch.eye(size, dtype=torch.float64).reshape(size, *case.prior.mean.shape)
    x = torch.zeros(count + size * (1 + draws), *case.prior.mean.shape, dtype=torch.float64)
    x[count : count + size] = units * sigmas[0]
    y = torch.cat([case.measurements, case.measurements[:1].expand(len(x) - count, *case.measurements.shape[1:])])
    turns: Iterator[int] = iter(range(draws))

    def noise(x: Tensor) -> Tensor:
        result, start = torch.zeros_like(x), count + size * (1 + next(turns))
        result[start : start + size] = units
        return result

    with torch.no_grad():
        ends = sampler(BoundDenoiser(denoiser, {"measurement": y}), x, sigmas, noise).flatten(1)
    response = ends[count:] - ends[:1]
    return ends[:count], response.T @ response


def sampled(denoiser, case: Case, sampler: Sampler, sigmas: Tensor, members: int) -> tuple[Tensor, Tensor]:
    """Return means [N,D] of each measurement, and the covariance [D,D] of `members` samples around them."""
    torch.manual_seed(0)
    y = case.measurements.repeat_interleave(members, 0)
    x = torch.randn(len(y), *case.prior.mean.shape, dtype=torch.float64) * sigmas[0]
    with torch.no_grad():
        ends = sampler(BoundDenoiser(denoiser, {"measurement": y}), x, sigmas, torch.randn_like)
    groups = ends.flatten(1).unflatten(0, (-1, members))
    means = groups.mean(1)
    around = (groups - means[:, None]).flatten(0, 1)
    return means, around.T @ around / (len(around) - len(means))


def errors(case: Case, means: Tensor, covariance: Tensor) -> tuple[float, float, float]:
    """Return the errors of mean and covariance, relative, and the coverage of the 90 % intervals, from 0 to 1.

    The error of the mean is relative to the distance of the posterior's from the prior's, that of the covariance in the
    Frobenius norm. Coverage is the probability of the truth given y in normal intervals of each pixel, averaged.
    """
    true_means, true_covariance = case.posterior()
    moved = (true_means - case.prior.mean.flatten()).square().sum()
    mean_error = ((means - true_means).square().sum() / moved).sqrt()
    covariance_error = (covariance - true_covariance).norm() / true_covariance.norm()
    width, std = QUANTILE * covariance.diag().sqrt(), true_covariance.diag().sqrt()
    ends = [torch.special.ndtr((means - true_means + sign * width) / std) for sign in (1, -1)]
    return float(mean_error), float(covariance_error), float((ends[0] - ends[1]).mean())


def samplers(steps: int) -> dict[str, tuple[Sampler, int, int]]:
    """Return samplers with their numbers of steps and of draws of noise."""
    return {
        "Heun": (EDMSampler(), steps, 0),
        "Heun, churn": (EDMSampler(S_churn=steps / 4), steps, steps),
        "SDE": (SDESampler(), 2 * steps, 2 * steps - 1),
    }


def operators(texts: list[str], folder: Path) -> Iterator[tuple[str, LinearOperator]]:
    """Yield operators by their texts; `inpaint` has a mask of half of the pixels, and `fft_mask` one of low ones."""
    mask = np.arange(16).reshape(4, 4) % 4 < 2
    np.save(folder / "mask.npy", mask)
    for text in texts:
        masked = text in ("inpaint", "fft_mask")
        yield text, make(component_of(f"{text}:{folder / 'mask.npy'}" if masked else text, "operator"), "operator")


@click.command()
@click.option("--operators", "chosen", default="inpaint,superres:2,blur:1,identity", show_default=True)
@click.option("--methods", default=",".join(METHODS), show_default=True)
@click.option("--steps", type=click.IntRange(2), default=64, show_default=True, help="Of Heun; twice that of the SDE.")
@click.option("--noise", type=float, default=10.0, show_default=True, help="Deviation; images have 50 and 30.")
@click.option("--count", type=click.IntRange(1), default=16, show_default=True, help="Measurements.")
@click.option("--members", type=click.IntRange(2), default=200, show_default=True, help="Samples of each, of dps.")
def main(chosen: str, methods: str, steps: int, noise: float, count: int, members: int) -> None:
    """Print the table: errors of mean and covariance and coverage, each in percent."""
    names = methods.split(",")
    print("| operator | method |", " | ".join(f"{name}: mean, cov., coverage" for name in samplers(steps)), "|")
    print("|---" * (2 + len(samplers(steps))) + "|")
    with tempfile.TemporaryDirectory() as folder, progress_bar(total=0, unit="run") as bar:
        cases = [(text, Case.drawn(one, noise, count)) for text, one in operators(chosen.split(","), Path(folder))]
        bar.reset(len(cases) * len(names) * len(samplers(steps)))
        for text, case in cases:
            for name in names:
                cells = []
                for sampler, number, draws in samplers(steps).values():
                    method = METHODS[name]
                    denoiser = case.denoiser(None if method is None else method.format(steps=number))
                    sigmas = Karras(number)(denoiser)
                    run: Callable = sampled if name in SAMPLED else moments
                    found = run(denoiser, case, sampler, sigmas, members if run is sampled else draws)
                    percents = [100 * one for one in errors(case, *found)]
                    cells.append("{:.1f}, {:.1f}, {:.0f}".format(*percents) if max(percents) < DIVERGED else "diverges")
                    bar.update()
                bar.write(f"| {text} | {name} | {' | '.join(cells)} |", file=sys.stdout)


if __name__ == "__main__":
    cli.run(main)
