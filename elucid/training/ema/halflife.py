"""Exponential moving averages (EMA) with one or more half-lives."""

from elucid.dnnlib.errors import UserError
from elucid.training.ema.moving import MovingEMA
from elucid.training.ema.profiles import Profile, halflife
from elucid.training.preconds.base import Preconditioned
from elucid.training.types import Step


class HalflifeEMA(MovingEMA):
    """theta_ema <- beta theta_ema + (1 - beta) theta, beta = 0.5^(images / min(halflife, rampup_ratio * nimg)).

    `halflife_mimg`: half-lives in millions of images, with one average each, named by the value. `rampup_ratio` None
    disables the ramp-up (Karras et al. 2022, appendix F.2). Raises UserError for invalid values.
    """

    def __init__(
        self, denoiser: Preconditioned, halflife_mimg: list[float] = (0.5,), rampup_ratio: float | None = 0.05
    ):
        if not halflife_mimg or min(halflife_mimg) < 0:
            raise UserError(f"halflife_mimg={list(halflife_mimg)}: half-lives must be 0 or more, e.g. `ema`=0.5")
        if rampup_ratio is not None and rampup_ratio <= 0:
            raise UserError(f"rampup_ratio={rampup_ratio} must be positive, or null for no ramp-up")
        self.halflives = {f"{value:g}": value * 1e6 for value in halflife_mimg}
        if len(self.halflives) < len(halflife_mimg):
            raise UserError(f"halflife_mimg={list(halflife_mimg)}: half-lives must differ")
        self.rampup_ratio = rampup_ratio
        super().__init__(denoiser, self.halflives)

    def beta(self, name: str, step: Step) -> float:
        images = self.halflives[name]
        if self.rampup_ratio is not None:
            images = min(images, step.nimg * self.rampup_ratio)
        return 0.5 ** (step.batch_size / max(images, 1e-8))

    @classmethod
    def profiles(cls, options: dict, nimg: int) -> dict[str, Profile]:
        lengths, ratio = options["halflife_mimg"], options["rampup_ratio"]
        return {f"{value:g}": halflife(value * 1e6, nimg, ratio) for value in lengths}
