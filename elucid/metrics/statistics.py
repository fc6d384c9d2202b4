"""Mean and covariance of features, accumulated over batches in float64 and merged between processes."""

import torch
from torch import Tensor

from elucid.torch_utils import distributed


class FeatureStatistics:
    """Running count, mean [D] and scatter [D,D] (the sum of outer products of deviations from the mean).

    Merging uses means and scatters (Chan et al. 1979), which avoids the cancellation of raw moments.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu"):
        device = torch.device(device)
        # Apple's devices have no float64.
        self.device = torch.device("cpu") if device.type == "mps" else device
        self.num = 0
        self.mean = torch.zeros(dim, dtype=torch.float64, device=self.device)
        self.scatter = torch.zeros(dim, dim, dtype=torch.float64, device=self.device)

    def update(self, features: Tensor) -> None:
        """Add features [B,D]."""
        features = features.to(self.device).to(torch.float64)
        if len(features):
            mean = features.mean(0)
            deviations = features - mean
            self._merge(len(features), mean, deviations.T @ deviations)

    def merge(self, other: "FeatureStatistics") -> None:
        """Add the data of another instance."""
        self._merge(other.num, other.mean.to(self.device), other.scatter.to(self.device))

    def _merge(self, num: int, mean: Tensor, scatter: Tensor) -> None:
        total = self.num + num
        if num == 0:
            return
        delta = mean - self.mean
        self.scatter += scatter + torch.outer(delta, delta) * (self.num * num / total)
        self.mean += delta * (num / total)
        self.num = total

    def all_reduce(self) -> "FeatureStatistics":
        """Return the statistics over all processes, on all processes. All must call it."""
        counts = torch.tensor(distributed.gather_objects(self.num), dtype=torch.float64)
        total = FeatureStatistics(len(self.mean), self.device)
        total.num = int(counts.sum())
        if total.num == 0:
            return total
        total.mean = distributed.all_reduce_sum(self.mean * (self.num / total.num))
        delta = self.mean - total.mean
        total.scatter = distributed.all_reduce_sum(self.scatter + torch.outer(delta, delta) * self.num)
        return total

    @property
    def covariance(self) -> Tensor:
        """Return the unbiased covariance f64[D,D]; needs at least two images."""
        return self.scatter / (self.num - 1)
