"""Running statistics of named values, summed over steps and processes."""

import math

import torch
from torch import Tensor

from elucid.torch_utils import distributed
from elucid.torch_utils.transfer import Later


class Statistics:
    """Count, sum and sum of squares per name, in float64, since the last `collect`.

    Values stay on their device until `collect`, so that reporting does not stall it.
    """

    def __init__(self):
        self.moments: dict[str, Tensor] = {}

    def report(self, name: str, values: Tensor) -> None:
        """Add all finite elements of `values` under `name`; `num` tells how many they are."""
        values = values.detach().flatten().to(torch.float64 if values.device.type != "mps" else torch.float32)
        finite = values.isfinite()
        values = values.where(finite, 0)
        self.add({name: torch.stack([finite.sum().to(values.dtype), values.sum(), values.square().sum()])})

    def add(self, moments: dict[str, Tensor]) -> None:
        """Add counts, sums and sums of squares of other values."""
        for name, value in moments.items():
            self.moments[name] = self.moments[name] + value if name in self.moments else value

    def collect(self) -> dict[str, dict[str, float]]:
        """Return {name: {num, mean, std}} over all processes, and reset. All processes must call it together."""
        names = sorted(set().union(*distributed.gather_objects(list(self.moments))))
        zeros = torch.zeros(3, dtype=torch.float64)
        table = [self.moments.get(name, zeros).cpu().double() for name in names]
        self.moments = {}
        if not table:
            return {}
        sums = distributed.all_reduce_sum(torch.stack(table))
        return {name: _summary(*row.tolist()) for name, row in zip(names, sums, strict=True)}

    def later(self, name: str) -> Later | None:
        """Return count, sum and sum of squares since the last `collect` on this process, to be read later."""
        return Later(self.moments[name]) if name in self.moments else None

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value.cpu() for name, value in self.moments.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a `state_dict`. Raises ValueError if it is damaged."""
        if not all(isinstance(name, str) and value.shape == (3,) for name, value in state.items()):
            raise ValueError("damaged statistics")
        self.moments = dict(state)


def _summary(num: float, total: float, squares: float) -> dict[str, float]:
    mean = total / num if num else math.nan
    variance = max(squares / num - mean * mean, 0.0) if num else math.nan
    return {"num": int(num), "mean": mean, "std": math.sqrt(variance)}
