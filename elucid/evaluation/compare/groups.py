"""Scores of the trainings of one recipe, and where their spread comes from."""

import math
import statistics
from dataclasses import dataclass

from scipy import stats

from elucid.dnnlib.errors import UserError

LOTTERY = 0.013
"""Coefficient of variation between trainings in "The FID Lottery" (arXiv 2606.20536), several hundred trainings."""


@dataclass(frozen=True)
class Group:
    """Scores [trainings][sampling seeds] of a recipe, as a random-effects model:

    score[i, j] = mean + training effect[i] + sampling noise[i, j]. All inference is on `means`, one for each training:
    sampling a model again tells nothing of what another training would give. With a single training the deviation is
    unknown, unless `assumed_cv` says what it is in units of the mean.
    """

    name: str
    scores: tuple[tuple[float, ...], ...]
    assumed_cv: float | None = None

    def __post_init__(self):
        values = [value for training in self.scores for value in training]
        if not values or not all(map(math.isfinite, values)):
            raise UserError(f"the scores of {self.name} are not finite numbers: {values}; look at its samples")
        if len(self.scores) > 1 and self.assumed_cv is None and len(set(self.means)) == 1:
            raise UserError(
                f"all {len(self.scores)} trainings of {self.name} have the score {self.means[0]:.6g}; was one training "
                "given more than once?"
            )

    @property
    def size(self) -> int:
        """Number of trainings."""
        return len(self.scores)

    @property
    def means(self) -> list[float]:
        """Mean over sampling seeds, for each training."""
        return [statistics.fmean(training) for training in self.scores]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.means)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of a training's mean score: of the training effect and of what is left of sampling."""
        if self.assumed_cv is not None:
            return self.assumed_cv * abs(self.mean)
        return statistics.stdev(self.means) if self.size > 1 else None

    @property
    def cv(self) -> float | None:
        """The deviation over the mean."""
        return None if self.deviation is None or self.mean == 0 else self.deviation / abs(self.mean)

    @property
    def sampling(self) -> float | None:
        """Standard deviation between sampling seeds of one training, pooled; None with one seed each."""
        spare = [(len(training) - 1, statistics.variance(training)) for training in self.scores if len(training) > 1]
        return math.sqrt(sum(n * v for n, v in spare) / sum(n for n, _ in spare)) if spare else None

    @property
    def between(self) -> float | None:
        """Standard deviation of the training effect alone: the estimate of an analysis of variance, 0 if negative."""
        if self.size < 2 or self.sampling is None:
            return None
        left = self.sampling**2 * statistics.fmean(1 / len(training) for training in self.scores)
        return math.sqrt(max(0.0, statistics.variance(self.means) - left))

    @property
    def df(self) -> float:
        """Degrees of freedom of the deviation."""
        return math.inf if self.assumed_cv is not None else self.size - 1

    def interval(self, tail: float = 0.05) -> tuple[float, float] | None:
        """Return the interval of the mean over trainings; None if the deviation is unknown."""
        if self.deviation is None:
            return None
        half = float(stats.t.isf(tail / 2, self.df)) * self.deviation / math.sqrt(self.size)
        return self.mean - half, self.mean + half

    def first(self, size: int) -> "Group":
        """Return the group of the first trainings."""
        return Group(self.name, self.scores[:size], self.assumed_cv)
