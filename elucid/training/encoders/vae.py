"""The VAE encoder of latent diffusion (Rombach et al. 2022, arXiv 2112.10752)."""

import numpy as np
import torch
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.encoders.autoencoder import read_config, read_model, weights_hash
from elucid.training.encoders.base import Encoder
from elucid.training.encoders.rgb import RGB
from elucid.training.types import NetSpec


class VAE(Encoder):
    """x = (mean + std * noise - shift) * scale, with the posterior of a diffusers AutoencoderKL; and the inverse.

    `scale` None means the autoencoder's own factor (0.18215 for Stable Diffusion). If `sha256` is given, other weights
    are rejected. `batch_size` images are processed at a time. The weights are loaded by `to`, or at first use.
    Raises UserError if diffusers or the autoencoder is not available.
    """

    def __init__(
        self,
        model: str = "stabilityai/sd-vae-ft-ema",
        scale: float | None = None,
        sha256: str | None = None,
        batch_size: int = 8,
    ):
        if not isinstance(model, str) or not model:
            raise UserError(f"encoder.model={model!r} must be a hub name, a folder or a file")
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"encoder.batch_size={batch_size!r} must be an integer of at least 1")
        config = read_config(model)
        self.model, self.sha256, self.batch_size = model, sha256, batch_size
        self.factor = 2 ** (len(config["block_out_channels"]) - 1)
        self.in_channels, self.latent_channels = config["in_channels"], config["latent_channels"]
        self.scale = config["scaling_factor"] if scale is None else scale
        self.shift = config["shift_factor"] or 0.0
        if not isinstance(self.scale, (int, float)) or not self.scale > 0:
            raise UserError(f"encoder.scale={self.scale!r} must be a number above 0")
        self._autoencoder: nn.Module | None = None

    @property
    def metadata(self) -> dict:
        """Options determined by the autoencoder; with `sha256` once its weights are loaded."""
        return {"scale": self.scale, "sha256": self.sha256}

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
        return (mean + std * torch.randn_like(mean) - self.shift) * self.scale

    @torch.no_grad()
    def moments(self, raw: Tensor) -> Tensor:
        """Encode u8 [B,C,H,W] to posterior means and standard deviations f32 [B,2C,h,w], before scaling."""
        self.to(raw.device)
        images = RGB().encode(raw)
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
        """Float [B,C,h,w] -> u8 [B,3,H,W], rounded as in `RGB`."""
        self.to(x.device)
        latents = x.to(torch.float32) / self.scale + self.shift
        images = [self._autoencoder.decode(part).sample for part in latents.split(self.batch_size)]
        return RGB().decode(torch.cat(images))


def stored_encoder(component: dict, dataset) -> dict:
    """Return the encoder component for a dataset, completed with the encoder of its stored latents.

    Raises UserError if the latents were made with another encoder, scale factor or weights.
    """
    stored = dataset.encoder
    if stored is None:
        return component
    if component.get("name") != stored["name"]:
        raise UserError(f"{dataset.path} holds latents, not images; train on them with `train_on_latents`=1")
    for option in ("scale", "sha256"):
        if component.get(option) not in (None, stored[option]):
            raise UserError(
                f"{dataset.path} holds latents of encoder.{option}={stored[option]}, not {component[option]}; "
                f"leave encoder.{option} out, or encode the images again"
            )
    return {**stored, **component, "scale": stored["scale"], "sha256": stored["sha256"]}
