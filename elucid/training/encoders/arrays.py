"""The encoder of arrays: normalises each channel by its mean and standard deviation, and back to the data's units."""

import torch
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.training.encoders.base import Encoder
from elucid.training.encoders.statistics import ChannelStatistics
from elucid.training.types import NetSpec


class Arrays(Encoder):
    """x = (u - mean) * final_std / std for each channel, and back u = x * std / final_std + mean, of the data's type.

    `mean` and `std` [C] are in the data's own units; whole numbers are rounded and kept in the range of `dtype`.
    `channel_names` and `units` [C] describe the channels. Raises UserError for numbers or names that do not fit.
    """

    pictures = False

    def __init__(
        self,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        final_std: float = 0.5,
        dtype: str = "float32",
        channel_names: list[str] | None = None,
        units: list[str] | None = None,
    ):
        if mean is None or std is None:
            raise UserError(
                "encoder.mean and encoder.std of arrays are missing; give both, one number for each channel"
            )
        self.statistics = ChannelStatistics(mean, std, final_std)
        self.dtype = getattr(torch, dtype, None)
        if dtype not in ("uint8", "uint16", "float16", "float32"):
            raise UserError(f"encoder.dtype={dtype} must be uint8, uint16, float16 or float32")
        for name, texts in (("channel_names", channel_names), ("units", units)):
            if texts is not None and len(texts) != len(mean):
                raise UserError(f"encoder.{name} has {len(texts)} entries for {len(mean)} channels; give one for each")
        self.channel_names, self.units = channel_names, units

    @property
    def affine(self) -> tuple[Tensor, Tensor]:
        own = self.statistics
        return 1 / torch.tensor(own.factors, dtype=torch.float64), torch.tensor(own.mean, dtype=torch.float64)

    def adapt(self, spec: NetSpec) -> NetSpec:
        self.check(spec)
        return spec.replace(arrays=True, out_channels=spec.out_channels)

    def check(self, spec: NetSpec) -> None:
        if spec.image_channels != len(self.statistics.mean):
            raise UserError(
                f"encoder.mean and encoder.std have {len(self.statistics.mean)} numbers, but the arrays have "
                f"{spec.image_channels} channels; give one for each"
            )

    def encode(self, raw: Tensor) -> Tensor:
        """Arrays [B,C,H,W] in their own units -> f32 [B,C,H,W]."""
        return self.statistics.normalise(raw.to(torch.float32))

    def decode(self, x: Tensor) -> Tensor:
        """Float [B,C,H,W] -> arrays [B,C,H,W] of the data's type, in its units."""
        own = self.statistics.restore(x)
        if self.dtype.is_floating_point:
            largest = torch.finfo(self.dtype).max  # not infinity, of float16
            return own.clamp(-largest, largest).to(self.dtype)
        return own.round().clamp(0, torch.iinfo(self.dtype).max).to(self.dtype)
