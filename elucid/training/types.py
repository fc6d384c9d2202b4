"""Data types shared by all components, and the notation for tensor shapes.

B batch · C channels · H height · W width · D feature or label dimension. Images are float32: pictures in [-1, 1],
arrays of any other kind by mean and deviation of each channel. `sigma` is a noise level in the same units (the standard
deviation of the added noise), `x` a noisy image, `x0` an estimate of the clean image, `nimg` a number of training
images.
"""

import dataclasses
import hashlib
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor
from torch.utils import _pytree as pytree

Cond = dict[str, Tensor]
"""Network conditioning by name, each [B, ...]: `labels` [B,D] (one-hot; all zeros = no class), `augment` [B,D], and
spatial maps such as `coords` [B,2,H,W], `lowres` [B,C,H,W] and `cond_images` [B,c,H,W]."""

MAPS = "cond_images"
"""Name in `Cond` of the maps given beside each image, and of the option that says where they are."""


@dataclass
class Batch:
    """Clean images f32[B,C,H,W], normalised by the encoder, and their conditioning.

    If `images` are latents, and the loss needs the pixels that they are of, `raw` are those, u8[B,1 or 3,H',W'].
    """

    images: Tensor
    cond: Cond = field(default_factory=dict)
    mirrored: Tensor | None = None  # [B] bool: images that the stream flipped horizontally
    raw: Tensor | None = None

    def __len__(self) -> int:
        return self.images.shape[0]


@dataclass
class Prediction:
    """Output of a denoiser: `x0` [B,C,H,W]; `var` [B,C,H,W] (raw network output) if it has a variance head; `logvar`
    [B] if it has a learned loss weighting; `features` are outputs of the network's inner layers, by the names that
    `NetSpec.features` asks for.

    `guidance` [B,C,H,W] is the gradient that classifier guidance added, scale * grad log p(y | x; sigma); `x0` contains
    sigma^2 times it. Ancestral samplers use it apart from x0.
    """

    x0: Tensor
    var: Tensor | None = None
    logvar: Tensor | None = None
    guidance: Tensor | None = None
    features: dict[str, Tensor] | None = None


@dataclass
class LossOutput:
    """Output of a loss: `loss` [B], summed over C, H and W, and the `terms` to log by name, in the units to log."""

    loss: Tensor
    terms: dict[str, Tensor] = field(default_factory=dict)


# DistributedDataParallel with a static graph looks for tensors in pytrees only; without it no gradient is exchanged.
pytree.register_dataclass(LossOutput)


@dataclass(frozen=True)
class NetSpec:
    """Inputs and outputs required of the network. Encoder, transforms and loss may each change it (`adapt`).

    `spatial` maps names to channels of maps concatenated with the image; `vector` maps names to widths of per-image
    conditions. `out_channels` 0 means as many as the image has. `features` names inner layers whose outputs the loss
    wants to see, e.g. "block8"; they are part of the training, not of snapshots.
    """

    resolution: tuple[int, int]  # height, width of the network's input
    image_channels: int
    out_channels: int = 0
    spatial: dict[str, int] = field(default_factory=dict)
    vector: dict[str, int] = field(default_factory=dict)
    latent: bool = False  # the network works on an encoder's latents, not pixels
    arrays: bool = False  # the data are arrays other than pictures, whose values have no bounds
    logvar_features: int = 0  # of the denoiser's head for a learned loss weighting; 0 for none
    features: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, "out_channels", self.out_channels or self.image_channels)
        for kind in ("spatial", "vector"):  # width 0 means no condition
            widths = {name: width for name, width in getattr(self, kind).items() if width}
            object.__setattr__(self, kind, widths)

    def replace(self, **changes) -> "NetSpec":
        """Return a copy with changes; changing `image_channels` also sets `out_channels` unless that is given."""
        if "image_channels" in changes:
            changes.setdefault("out_channels", 0)
        return dataclasses.replace(self, **changes)

    def with_vector(self, name: str, width: int) -> "NetSpec":
        """Return a copy with another per-image condition."""
        return self.replace(vector={**self.vector, name: width})

    def with_spatial(self, name: str, channels: int) -> "NetSpec":
        """Return a copy with another spatial map."""
        return self.replace(spatial={**self.spatial, name: channels})

    @property
    def bounded(self) -> bool:
        """Whether clean images lie in [-1, 1]."""
        return not (self.latent or self.arrays)

    @property
    def in_channels(self) -> int:
        """Channels of the image and all spatial maps."""
        return self.image_channels + sum(self.spatial.values())

    @property
    def label_dim(self) -> int:
        """Number of classes or width of vector labels; 0 without labels."""
        return self.vector.get("labels", 0)

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """C, H, W of one sample."""
        return (self.image_channels, *self.resolution)


@dataclass(frozen=True)
class Step:
    """Training progress: optimizer steps and images so far, total images, seed of the run, images of this step.

    `phase` is the phase of the loss being trained (`Loss.phases`).
    """

    index: int
    nimg: int
    total_nimg: int
    seed: int
    batch_size: int
    phase: str = "main"

    def replace(self, **changes) -> "Step":
        """Return a copy with changes."""
        return dataclasses.replace(self, **changes)

    @property
    def progress(self) -> float:
        """Fraction of the training that is done, 0 to 1."""
        return min(self.nimg / max(self.total_nimg, 1), 1.0)

    def shared_rng(self, purpose: str = "") -> np.random.Generator:
        """Return a random generator seeded by step, phase and `purpose`, identical on all ranks."""
        # Only the main phase advances nimg, so the other phases need the index as well.
        key = f"{self.nimg}" if self.phase == "main" else f"{self.nimg}:{self.index}:{self.phase}"
        digest = hashlib.sha256(f"{self.seed}:{key}:{purpose}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little"))
