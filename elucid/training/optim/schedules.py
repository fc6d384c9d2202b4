"""Learning-rate schedules: the factor on the optimizer's learning rate at each step."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from elucid.dnnlib.errors import UserError
from elucid.training.types import Step


@dataclass
class LRSchedule(ABC):
    """factor = shape * min(nimg / warmup, 1) * min((1 - progress) / cooldown, 1).

    `warmup_kimg`: thousands of images over which the rate rises linearly from zero. `cooldown`: fraction of the
    training, 0 to 1, over which it falls linearly to zero at the end. Raises UserError for values out of range.
    """

    warmup_kimg: float = 10000
    cooldown: float = 0

    def __post_init__(self):
        if self.warmup_kimg < 0:
            raise UserError(f"warmup_kimg={self.warmup_kimg} must be 0 or more; 0 means no warm-up")
        if not 0 <= self.cooldown <= 1:
            raise UserError(f"cooldown={self.cooldown} must be a fraction of the training, from 0 to 1")

    @abstractmethod
    def shape(self, step: Step) -> float:
        """Return the factor without warm-up and cool-down."""

    def __call__(self, step: Step) -> float:
        """Return the factor on the optimizer's base learning rate at this step."""
        return self.rate(1.0, step)

    def rate(self, lr: float, step: Step) -> float:
        """Return the learning rate at this step for the base learning rate `lr`."""
        up = min(step.nimg / (self.warmup_kimg * 1000), 1.0) if self.warmup_kimg else 1.0
        down = min((1 - step.progress) / self.cooldown, 1.0) if self.cooldown else 1.0
        return lr * self.shape(step) * up * down  # in this order: lr * (up * down) may differ in the last bit


@dataclass
class Constant(LRSchedule):
    """shape = 1: a constant rate after the warm-up."""

    def shape(self, step: Step) -> float:
        return 1.0


@dataclass
class _Falling(LRSchedule):
    """Base class of schedules that decay from 1 to `final`, 0 to 1, over the training."""

    final: float = 0

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.final <= 1:
            raise UserError(f"final={self.final} must be a fraction of the rate, from 0 to 1")


@dataclass
class Linear(_Falling):
    """shape = 1 - progress + final * progress: linear decay from 1 to `final`, 0 to 1, over the training."""

    def shape(self, step: Step) -> float:
        return (1 - step.progress) + self.final * step.progress


@dataclass
class Cosine(_Falling):
    """shape = w + final * (1 - w), w = (1 + cos(pi * progress)) / 2: decay from 1 to `final` over training.

    `final` is between 0 and 1. Loshchilov & Hutter 2017, equation 5, without restarts.
    """

    def shape(self, step: Step) -> float:
        weight = (1 + math.cos(math.pi * step.progress)) / 2
        return weight + self.final * (1 - weight)


@dataclass
class InverseSqrt(LRSchedule):
    """shape = 1 / sqrt(max(nimg / reference, 1)) (Karras et al. 2024, "Analyzing and Improving", section 3.1).

    `reference_mimg`: millions of images, above 0, after which the rate decays. The default is the paper's value for
    64x64 images: 35,000 steps of 2048. Raises UserError for values out of range.
    """

    reference_mimg: float = 71.68

    def __post_init__(self):
        super().__post_init__()
        if self.reference_mimg <= 0:
            raise UserError(f"reference_mimg={self.reference_mimg} must be above 0 (millions of images)")

    def shape(self, step: Step) -> float:
        return 1 / math.sqrt(max(step.nimg / (self.reference_mimg * 1e6), 1))
