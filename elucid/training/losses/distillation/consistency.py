"""Consistency distillation (Song et al. 2023, arXiv 2303.01469, algorithm 2)."""

from elucid.training.losses.distillation.teacher import require_path
from elucid.training.losses.fewstep.consistency_training import ConsistencyTraining
from elucid.training.preconds.base import Preconditioned


class ConsistencyDistillation(ConsistencyTraining):
    """Consistency training whose lower point is a step of the teacher's probability flow, not of the clean image.

    x_r = x_t + (r - t) (x_t - D_teacher(x_t; t)) / t, and with `solver` heun, the default, the mean of the slopes at
    both ends, so that a fixed grid of 39 intervals is enough. Raises UserError without a `teacher`.
    """

    uses_all_parameters = True

    def check(self, denoiser: Preconditioned) -> None:
        super().check(denoiser)
        require_path(self, self.teacher_path)
