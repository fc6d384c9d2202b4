"""Suggests noise levels for a dataset by scaling EDM's with image size and standard deviation."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from elucid.dnnlib.errors import UserError

SIDE, SIGMA_DATA = 64, 0.5
"""EDM's numbers were chosen for images of 32 to 64 pixels with this standard deviation in [-1, 1]."""

P_MEAN, P_STD, SIGMA_MIN, SIGMA_MAX = -1.2, 1.2, 0.002, 80.0
"""Karras et al. 2022, table 1: ln sigma ~ N(P_mean, P_std^2) in training, sigma_min to sigma_max in sampling."""


@dataclass(frozen=True)
class Proposal:
    """Noise levels, in the units of the data; `side` in pixels, the geometric mean of height and width."""

    side: float
    sigma_data: float
    P_mean: float
    P_std: float
    sigma_min: float
    sigma_max: float

    def lines(self) -> Iterator[str]:
        """Yield the flags with their formulas, then the reasoning."""
        larger = f"max(1, {self.side:g}/{SIDE})"
        contrast = f"{self.sigma_data:g}/{SIGMA_DATA:g}"
        rows = [
            (f"--set precond.sigma_data={self.sigma_data:g}", "the standard deviation above, two digits"),
            (f"--set loss.noise.P_mean={round(self.P_mean, 2):g}", f"{P_MEAN:g} + ln({larger}) + ln({contrast})"),
            (f"--set loss.noise.P_std={self.P_std:g}", "as EDM's"),
            (f"--sigma_min={self.sigma_min:.2g}", f"{SIGMA_MIN:g} * {contrast} (generate.py)"),
            (f"--sigma_max={self.sigma_max:.3g}", f"{SIGMA_MAX:g} * {larger} * {contrast} (generate.py)"),
        ]
        width = max(len(flag) for flag, _ in rows)
        yield "suggested noise levels, as a starting point:"
        yield from (f"  {flag:{width}}  {formula}" for flag, formula in rows)
        yield (
            f"  rule: EDM chose P_mean={P_MEAN:g}, P_std={P_STD:g}, sigma {SIGMA_MIN:g} to {SIGMA_MAX:g} for 32 to "
            f"{SIDE} pixels and sigma_data={SIGMA_DATA:g}; noise is relative to the data's standard deviation;"
        )
        yield (
            "  natural images are smooth: averaging k x k pixels reduces white noise by k but preserves the image, "
            "so r times the side needs r times the noise for the same SNR"
        )


def propose(resolution: int | tuple[int, int], sigma_data: float) -> Proposal:
    """Scale EDM's noise levels to an image size, a side in pixels or (height, width), and a standard deviation.

    P_mean = -1.2 + ln max(1, S/64) + ln(sigma_data/0.5), P_std = 1.2, sigma_max = 80 max(1, S/64) sigma_data/0.5,
    sigma_min = 0.002 sigma_data/0.5. Raises UserError unless all numbers are above 0.
    """
    sides = (resolution, resolution) if isinstance(resolution, int) else resolution
    if not (min(sides) > 0 and 0 < sigma_data < math.inf):
        raise UserError(
            f"cannot suggest noise levels for resolution={resolution}, sigma_data={sigma_data}; both must be > 0"
        )
    side = math.sqrt(math.prod(sides))  # averaging k x l pixels reduces white noise by sqrt(k l)
    larger, contrast = max(1.0, side / SIDE), sigma_data / SIGMA_DATA
    return Proposal(
        side=side,
        sigma_data=sigma_data,
        P_mean=P_MEAN + math.log(larger) + math.log(contrast),
        P_std=P_STD,
        sigma_min=SIGMA_MIN * contrast,
        sigma_max=SIGMA_MAX * larger * contrast,
    )
