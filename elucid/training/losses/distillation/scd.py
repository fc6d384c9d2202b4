"""Distillation of the probability flow of a teacher in continuous time, sCD (Lu & Song 2024, arXiv 2410.11081)."""

from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.losses.base import Copies, Load
from elucid.training.losses.distillation.teacher import open_teacher, require_path
from elucid.training.losses.fewstep.distances import sigma_data
from elucid.training.losses.fewstep.scm import SCM, trigflow
from elucid.training.noise.distributions import NoiseDistribution
from elucid.training.preconds.base import Denoiser, Preconditioned
from elucid.training.types import Batch


class SCD(SCM):
    """sCM's loss with dx/dt = s F of the `teacher`, a diffusion model, at x_t. Other options are those of `SCM`."""

    uses_all_parameters = True
    copies = Copies(opened=1)

    def __init__(
        self,
        noise: NoiseDistribution,
        c: float = 0.1,
        warmup: int = 10_000,
        norm: str = "norm",
        prior: bool = False,
        divide_twice: bool = False,
        derivative: str = "forward",
        teacher: str | None = None,
    ):
        super().__init__(noise, c, warmup, norm, prior, divide_twice, derivative)
        self.path = teacher

    def check(self, denoiser: Preconditioned) -> None:
        super().check(denoiser)
        require_path(self, self.path)

    def setup(self, denoiser: Preconditioned, load: Load) -> None:
        self.teacher = open_teacher(self, load, self.path, denoiser)
        if self.teacher.levels is not None:
            steps = len(self.teacher.levels)
            raise UserError(f"`teacher`={self.path} has {steps} steps, scd needs any noise level; take one of edm's")

    def slope(self, denoiser: Denoiser, batch: Batch, x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        s = sigma_data(denoiser)
        return s * trigflow(self.teacher, x, t, batch.cond, s)
