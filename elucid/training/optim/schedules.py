"""Learning rates over training."""

from abc import ABC, abstractmethod

from elucid.training.types import Step


class LRSchedule(ABC):
    @abstractmethod
    def __call__(self, step: Step) -> float: ...


class Constant(LRSchedule):
    def __init__(self, warmup_kimg: float = 10000, cooldown: float = 0):
        self.warmup_kimg, self.cooldown = warmup_kimg, cooldown

    def __call__(self, step: Step) -> float:
        up = min(step.nimg / max(self.warmup_kimg * 1000, 1e-8), 1.0)
        down = min((1 - step.progress) / self.cooldown, 1.0) if self.cooldown else 1.0
        return up * down
