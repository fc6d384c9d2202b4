"""Mean and standard deviation of each channel of latents, which take the place of one scale factor.

Without torch, since data sets are measured without it.
"""

from numbers import Real
from typing import TYPE_CHECKING

from elucid.dnnlib.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


LARGEST = 1e30  # well within float32


class ChannelStatistics:
    """x = (raw - mean) * final_std / std for each channel, and back; brings all channels to one deviation.

    `mean` and `std` [C] are those of the raw latents, `final_std` is the deviation of x. Raises UserError unless they
    are finite, of one length, and the deviations above 0.
    """

    def __init__(self, mean: list[float], std: list[float], final_std: float = 0.5):
        for name, values in (("mean", mean), ("std", std)):
            if not isinstance(values, (list, tuple)) or not values or not all(map(_is_number, values)):
                raise UserError(
                    f"encoder.{name}={values!r} must be a list of numbers, one for each channel of the latents"
                )
        if len(mean) != len(std):
            raise UserError(
                f"encoder.mean has {len(mean)} numbers and encoder.std {len(std)}; give one for each channel"
            )
        if min(std) <= 0:
            raise UserError(f"encoder.std={list(std)} must be numbers above 0")
        if not _is_number(final_std) or final_std <= 0:
            raise UserError(f"encoder.final_std={final_std!r} must be a number above 0")
        self.mean, self.std, self.final_std = [float(one) for one in mean], [float(one) for one in std], final_std

    @classmethod
    def of(cls, encoder: dict) -> "ChannelStatistics | None":
        """Return the statistics among the options of an encoder; None if it has none. Raises UserError for half."""
        mean, std = encoder.get("mean"), encoder.get("std")
        if mean is None and std is None:
            return None
        if mean is None or std is None:
            given, lacking = ("std", "mean") if mean is None else ("mean", "std")
            raise UserError(f"encoder.{given} needs encoder.{lacking}, too; give both, for each channel")
        return cls(mean, std, **{name: encoder[name] for name in ("final_std",) if encoder.get(name) is not None})

    @property
    def factors(self) -> list[float]:
        """final_std / std [C]."""
        return [self.final_std / one for one in self.std]

    def normalise(self, raw: "Tensor") -> "Tensor":
        """Raw latents [B,C,h,w] -> x [B,C,h,w]."""
        return (raw - _by_channel(self.mean, raw)) * _by_channel(self.factors, raw)

    def restore(self, x: "Tensor") -> "Tensor":
        """X [B,C,h,w] -> raw latents [B,C,h,w]."""
        return x / _by_channel(self.factors, x) + _by_channel(self.mean, x)


def _by_channel(values: list[float], like: "Tensor") -> "Tensor":
    return like.new_tensor(values)[:, None, None]


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and -LARGEST < value < LARGEST
