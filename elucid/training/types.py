"""The values that pass between the parts, and the legend of their shapes.

B batch · C channels · H height · W width · D feature or label dimension. Images are float32 in [-1, 1].
`sigma` is a noise level in the same units (the standard deviation of the added noise), `x` a noisy image,
`x0` an estimate of the clean one, `nimg` a count of training images.
"""

import dataclasses
import hashlib
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

Cond = dict[str, Tensor]
"""Whatever conditions the network, by name, each [B, ...]: `labels` [B,D] (one-hot; all zeros = no class),
`augment` [B,D], and spatial maps such as `coords` [B,2,H,W]."""


@dataclass
class Batch:
    """Clean images f32[B,C,H,W] in [-1, 1] and what conditions them."""

    images: Tensor
    cond: Cond = field(default_factory=dict)

    def __len__(self) -> int:
        return self.images.shape[0]


@dataclass
class Prediction:
    """What a denoiser returns: x0 [B,C,H,W]; with a variance head `var` [B,C,H,W] (the network's raw output);
    with a learned weighting `logvar` [B]."""

    x0: Tensor
    var: Tensor | None = None
    logvar: Tensor | None = None


@dataclass
class LossOutput:
    """`loss` [B], summed over C, H and W, and the named `terms` [B] it consists of, which the logs show.

    Logs show values per element; `elements` says over how many a loss was summed, where not over the whole image.
    """

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)
    elements: int | None = None


@dataclass(frozen=True)
class NetSpec:
    """What the network must take in and give out. Encoder, augmentation and loss each may change it (`adapt`)."""

    resolution: tuple[int, int]  # height, width of what the network sees
    image_channels: int
    label_dim: int = 0
    augment_dim: int = 0
    coord_channels: int = 0
    learned_variance: bool = False
    latent: bool = False  # the network sees an encoder's latents, not pixels

    def replace(self, **changes) -> "NetSpec":
        return dataclasses.replace(self, **changes)

    @property
    def in_channels(self) -> int:
        return self.image_channels + self.coord_channels

    @property
    def out_channels(self) -> int:
        return self.image_channels * (2 if self.learned_variance else 1)

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """C, H, W of one sample."""
        return (self.image_channels, *self.resolution)


@dataclass(frozen=True)
class Step:
    """Where training stands: images seen so far, images to see in all, and the run's seed."""

    nimg: int
    total_nimg: int
    seed: int = 0
    batch_size: int = 1

    @property
    def progress(self) -> float:
        """Share of the training done, 0 to 1."""
        return min(self.nimg / max(self.total_nimg, 1), 1.0)

    def shared_rng(self, purpose: str = "") -> np.random.Generator:
        """A generator that draws the same numbers on every rank in this step, fresh in the next one."""
        digest = hashlib.sha256(f"{self.seed}:{self.nimg}:{purpose}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little"))
