"""The VAE encoder of latent diffusion (Rombach et al. 2022, arXiv 2112.10752)."""

import numpy as np
import torch
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.encoders.autoencoder import read_config, read_model, weights_hash
from elucid.training.encoders.base import Encoder
from elucid.training.encoders.edm2 import are_edm2s
from elucid.training.encoders.rgb import RGB
from elucid.training.encoders.statistics import ChannelStatistics
from elucid.training.types import NetSpec

PIXELS = ("signed", "unit")
"""The range of pixels that an autoencoder takes and makes: [-1, 1] as in training, or [0, 1] as EDM2 feeds it."""


class VAE(Encoder):
    """x = (raw - shift) * scale, raw a sample of the posterior of a diffusers AutoencoderKL; and the inverse.

    `scale` None means the autoencoder's own factor (0.18215 for Stable Diffusion). `mean`, `std` and `final_std` take
    the place of scale and shift: x = (raw - mean) * final_std / std for each channel. `pixels` are "signed", in
    [-1, 1], or "unit", in [0, 1]. If `sha256` is given, other weights are rejected. `batch_size` images are processed
    at a time. The weights are loaded by `to`, or at first use. Raises UserError if diffusers or the autoencoder is not
    available, and for EDM2's statistics with other latents than EDM2's.
    """

    def __init__(
        self,
        model: str = "stabilityai/sd-vae-ft-ema",
        scale: float | None = None,
        sha256: str | None = None,
        batch_size: int = 8,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        final_std: float = 0.5,
        pixels: str = "signed",
    ):
        if not isinstance(model, str) or not model:
            raise UserError(f"encoder.model={model!r} must be a hub name, a folder or a file")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"encoder.batch_size={batch_size!r} must be an integer of at least 1")
        if pixels not in PIXELS:
            raise UserError(f"encoder.pixels={pixels!r} must be signed, for pixels in [-1, 1], or unit, for [0, 1]")
        self.statistics = ChannelStatistics.of({"mean": mean, "std": std, "final_std": final_std})
        self.pixels = pixels
        if self.statistics is not None:
            _require_one_convention(self.statistics, scale, pixels)
        config = read_config(model)
        self.model, self.sha256, self.batch_size = model, sha256, batch_size
        self.factor = 2 ** (len(config["block_out_channels"]) - 1)
        self.in_channels, self.latent_channels = config["in_channels"], config["latent_channels"]
        if self.statistics is not None and len(self.statistics.mean) != self.latent_channels:
            if sha256 is not None:
                raise UserError(
                    f"the latents and their statistics have {len(self.statistics.mean)} channels, those of VAE {model} "
                    f"{self.latent_channels}; give the VAE that encoded them by `set` encoder.model=PATH"
                )
            raise UserError(
                f"encoder.mean and encoder.std have {len(self.statistics.mean)} numbers, but the latents of VAE "
                f"{model} have {self.latent_channels} channels; give one for each channel"
            )
        self.scale = config["scaling_factor"] if scale is None else scale
        self.shift = config["shift_factor"] or 0.0
        if self.statistics is None and (not isinstance(self.scale, (int, float)) or not self.scale > 0):
            raise UserError(f"encoder.scale={self.scale!r} must be a number above 0")
        self._autoencoder: nn.Module | None = None

    @property
    def metadata(self) -> dict:
        """Options determined by the autoencoder; with `sha256` once its weights are loaded."""
        return {"scale": None if self.statistics else self.scale, "sha256": self.sha256}

    @property
    def convention(self) -> dict:
        """What a data set of its latents must say: how the VAE is fed, and how its latents are normalised."""
        pixels = {} if self.pixels == "signed" else {"pixels": self.pixels}
        if self.statistics is None:
            return {"scale": self.scale, **pixels}
        return {name: getattr(self.statistics, name) for name in ("mean", "std", "final_std")} | pixels

    def to(self, device: torch.device | str) -> "VAE":
        """Load the weights if necessary and move to a device. Raises UserError if their hash differs from `sha256`."""
        if self._autoencoder is None:
            autoencoder = read_model(self.model)
            sha256 = weights_hash(autoencoder)
            if self.sha256 not in (None, sha256):
                raise UserError(
                    f"VAE {self.model} has other weights (sha256 {sha256[:12]}) than those that encoded the latents "
                    f"({self.sha256[:12]}); give that VAE by `set` encoder.model=PATH"
                )
            self._autoencoder, self.sha256 = autoencoder, sha256
        self._autoencoder.to(device)
        return self

    def adapt(self, spec: NetSpec) -> NetSpec:
        """Convert the spec of images to that of latents [latent channels, H/factor, W/factor].

        Stored moments keep their size. Raises UserError if the data does not fit this autoencoder.
        """
        if spec.latent:
            if spec.image_channels != 2 * self.latent_channels:
                raise UserError(
                    f"the dataset stores latents of {spec.image_channels / 2:g} channels, but VAE {self.model} has "
                    f"{self.latent_channels}; give the VAE that encoded it with `set` encoder.model=PATH"
                )
            return spec.replace(image_channels=self.latent_channels)
        channels, *resolution = self.latent_shape(spec.image_channels, spec.resolution)
        return spec.replace(resolution=tuple(resolution), image_channels=channels, latent=True)

    def latent_shape(self, channels: int, resolution: tuple[int, int]) -> tuple[int, int, int]:
        """Return (C, h, w) of the latents for images with these channels and (height, width). Raises UserError."""
        height, width = resolution
        if height % self.factor or width % self.factor:
            raise UserError(
                f"VAE {self.model} downsamples images by {self.factor}, which does not divide {width}x{height}; "
                "prepare the dataset with another `resolution`"
            )
        if channels not in (1, self.in_channels):
            raise UserError(
                f"VAE {self.model} takes {self.in_channels} channels, the dataset has {channels}; "
                "convert it with dataset_tool.py --channels"
            )
        return self.latent_channels, height // self.factor, width // self.factor

    def check(self, spec: NetSpec) -> None:
        """Raise UserError if the output of a network with this spec is not a latent of this autoencoder."""
        if not spec.latent or spec.image_channels != self.latent_channels:
            raise UserError(
                f"VAE {self.model} has latents of {self.latent_channels} channels, and the snapshot's network makes "
                f"{spec.image_channels}; give the VAE it was trained with by `set` encoder.model=PATH"
            )

    def encode(self, raw: Tensor) -> Tensor:
        """Sample posteriors f32 [B,C,h,w] of images u8 [B,C,H,W] or stored moments [B,2C,h,w]."""
        moments = raw.to(torch.float32) if raw.is_floating_point() else self.moments(raw)
        mean, std = moments.chunk(2, dim=1)
        raw = mean + std * torch.randn_like(mean)
        return self.statistics.normalise(raw) if self.statistics else (raw - self.shift) * self.scale

    @torch.no_grad()
    def moments(self, raw: Tensor) -> Tensor:
        """Encode u8 [B,C,H,W] to posterior means and standard deviations f32 [B,2C,h,w], before scaling."""
        self.to(raw.device)
        images = RGB().encode(raw) if self.pixels == "signed" else raw.to(torch.float32) / 255
        if images.shape[1] == 1:
            images = images.expand(-1, self.in_channels, -1, -1)
        posteriors = [self._autoencoder.encode(part).latent_dist for part in images.split(self.batch_size)]
        return torch.cat([torch.cat([one.mean, one.std], dim=1) for one in posteriors])

    def numpy_moments(self, images: np.ndarray) -> np.ndarray:
        """Call `moments` for arrays, on the device of the weights."""
        device = next(self._autoencoder.parameters()).device
        return self.moments(torch.from_numpy(images).to(device)).cpu().numpy()

    @torch.no_grad()
    def decode(self, x: Tensor) -> Tensor:
        """Float [B,C,h,w] -> u8 [B,3,H,W], rounded as in `RGB`; "unit" pixels are clipped, times 255, truncated."""
        self.to(x.device)
        x = x.to(torch.float32)
        latents = self.statistics.restore(x) if self.statistics else x / self.scale + self.shift
        images = torch.cat([self._autoencoder.decode(part).sample for part in latents.split(self.batch_size)])
        return RGB().decode(images) if self.pixels == "signed" else (images.clip(0, 1) * 255).to(torch.uint8)


def _require_one_convention(statistics: ChannelStatistics, scale: float | None, pixels: str) -> None:
    """Raise UserError for statistics of raw latents together with a scale factor, or EDM2's with signed pixels."""
    edm2s = are_edm2s(statistics.mean, statistics.std)
    if scale is not None:
        whose = "EDM2's statistics of latents without a scale factor" if edm2s else "statistics of raw latents"
        raise UserError(
            f"encoder.mean and encoder.std are {whose}, so encoder.scale={scale!r} cannot stand beside them; leave "
            "encoder.scale out, or both of encoder.mean and encoder.std"
        )
    if edm2s and pixels == "signed":
        raise UserError(
            "encoder.mean and encoder.std are EDM2's statistics, which belong to a VAE fed pixels in [0, 1]; with "
            "encoder.pixels=signed, in [-1, 1], images would come out gray; set encoder.pixels=unit, or give the "
            "statistics that dataset_tool.py verify measures of your latents"
        )
