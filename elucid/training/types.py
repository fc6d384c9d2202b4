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
    mirrored: Tensor | None = None  # [B] bool: which of them the stream took as mirror images

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
    """`loss` [B], summed over C, H and W, and the named `terms` that the logs show, each in the unit it is read in."""

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class NetSpec:
    """What the network must take in and give out. Encoder, transforms and loss each may change it (`adapt`).

    `spatial` are maps that it sees beside the image, name -> channels; `vector` are conditions of the whole image,
    name -> width. `out_channels` 0 means as many as the image has.
    """

    resolution: tuple[int, int]  # height, width of what the network sees
    image_channels: int
    out_channels: int = 0
    spatial: dict[str, int] = field(default_factory=dict)
    vector: dict[str, int] = field(default_factory=dict)
    latent: bool = False  # the network sees an encoder's latents, not pixels

    def __post_init__(self):
        object.__setattr__(self, "out_channels", self.out_channels or self.image_channels)
        for kind in ("spatial", "vector"):  # a width of 0 is no condition
            widths = {name: width for name, width in getattr(self, kind).items() if width}
            object.__setattr__(self, kind, widths)

    def replace(self, **changes) -> "NetSpec":
        """With other values; other image channels also mean as many outputs, where those are not given."""
        if "image_channels" in changes:
            changes.setdefault("out_channels", 0)
        return dataclasses.replace(self, **changes)

    def with_vector(self, name: str, width: int) -> "NetSpec":
        """With one more condition of the whole image."""
        return self.replace(vector={**self.vector, name: width})

    def with_spatial(self, name: str, channels: int) -> "NetSpec":
        """With one more map beside the image."""
        return self.replace(spatial={**self.spatial, name: channels})

    @property
    def in_channels(self) -> int:
        """Channels of the image and of all maps beside it."""
        return self.image_channels + sum(self.spatial.values())

    @property
    def label_dim(self) -> int:
        """Classes, or the width of vector labels; 0 without."""
        return self.vector.get("labels", 0)

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """C, H, W of one sample."""
        return (self.image_channels, *self.resolution)


@dataclass(frozen=True)
class Step:
    """Where training stands: optimizer steps and images so far, images in all, the run's seed, images of this step.

    `phase` is the one of the loss's phases that is trained (`Loss.phases`).
    """

    index: int
    nimg: int
    total_nimg: int
    seed: int
    batch_size: int
    phase: str = "main"

    def replace(self, **changes) -> "Step":
        """With other values."""
        return dataclasses.replace(self, **changes)

    @property
    def progress(self) -> float:
        """Share of the training done, 0 to 1."""
        return min(self.nimg / max(self.total_nimg, 1), 1.0)

    def shared_rng(self, purpose: str = "") -> np.random.Generator:
        """A generator that draws the same numbers on every rank in this step and phase, fresh in the next one."""
        # The main phase moves nimg on, others do not: they need the index too.
        key = f"{self.nimg}" if self.phase == "main" else f"{self.nimg}:{self.index}:{self.phase}"
        digest = hashlib.sha256(f"{self.seed}:{key}:{purpose}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little"))
