"""Averages by power functions, from which any other length can be reconstructed (Karras et al. 2024)."""

from elucid.dnnlib.errors import UserError
from elucid.training.ema.moving import MovingEMA
from elucid.training.ema.profiles import Profile, power, std_to_exponent
from elucid.training.preconds.base import Preconditioned
from elucid.training.types import Step


class PowerEMA(MovingEMA):
    """beta = (1 - batch / nimg)^(gamma + 1), so that the moment tau of the training counts as tau^gamma.

    `stds`: relative lengths sigma_rel, one average each, named like 0.050: the standard deviation of the profile in
    units of the training so far, above 0 and below 0.288 (arXiv 2312.02696, section 3). nimg counts the step's images,
    so the first step copies the weights. `export.py ema` makes averages of other lengths from a run's snapshots.
    Raises UserError for invalid values.
    """

    def __init__(self, denoiser: Preconditioned, stds: list[float] = (0.05, 0.10)):
        if not stds:
            raise UserError("ema.stds is empty; give at least one relative length, e.g. ema.stds=[0.05,0.1]")
        self.exponents = {length_name(std): std_to_exponent(std) for std in stds}
        if len(self.exponents) < len(stds):
            raise UserError(f"ema.stds={list(stds)}: lengths must differ")
        super().__init__(denoiser, self.exponents)

    def beta(self, name: str, step: Step) -> float:
        return (1 - step.batch_size / (step.nimg + step.batch_size)) ** (self.exponents[name] + 1)

    @classmethod
    def profiles(cls, options: dict, nimg: int) -> dict[str, Profile]:
        return {length_name(std): power(std, nimg) for std in options["stds"]}


def length_name(std: float) -> str:
    """Return the name of an average: three decimals, or more if it has more."""
    return f"{std:.3f}" if round(std, 3) == round(std, 9) else f"{std:.9f}".rstrip("0")
