"""Base class of feature encoders: frozen networks whose tokens of clean images losses compare with others."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError


class FeatureEncoder(ABC):
    """Base class: maps images f32[B,1 or 3,H,W] in [-1, 1] to tokens f32[B,h*w,dim], rows first, (h, w) = `grid`.

    Resizing and normalisation are inside. Weights are frozen; gradients pass to the images. It is no nn.Module, so that
    states, snapshots and optimizers leave it out; options name its weights by `sha256`. `network`, if there is one, is
    moved along; `load` makes it if that takes long.
    """

    dim: int
    grid: tuple[int, int]
    sha256: str | None = None
    network: nn.Module | None = None
    device: torch.device | None = None

    @property
    def metadata(self) -> dict:
        """Options determined by the encoder itself: the hash of its weights, if it has any."""
        return {"sha256": self.sha256} if self.sha256 else {}

    def fit(self, grid: tuple[int, int]) -> None:  # noqa: B027 - most have one size
        """Choose the size of the input so that there are tokens on this `grid`, rows and columns, if that can be."""

    def load(self) -> None:  # noqa: B027 - many have what they need from the start
        """Read or download the weights, if they are not there; all processes call it."""

    def to(self, device: torch.device) -> "FeatureEncoder":
        """Move to a device, with weights."""
        if self.device != device:
            self.load()
            if self.network is not None:
                self.network.to(device).eval().requires_grad_(False)
            self.device = device
        return self

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """Compute the tokens f32[B,h*w,dim] of RGB images f32[B,3,H,W] in [-1, 1]."""

    def __call__(self, images: Tensor) -> Tensor:
        self.to(images.device)
        tokens = self.features(images.to(torch.float32).expand(-1, 3, -1, -1))
        wanted = (len(images), self.grid[0] * self.grid[1], self.dim)
        if tokens.shape != wanted:
            name = type(self).__name__
            raise UserError(f"features {name} returned {list(tokens.shape)}, expected {list(wanted)}: its grid and dim")
        return tokens


def require_weights(what: str, found: str, recorded: str | None) -> None:
    """Raise UserError if the weights have another hash than those that a run began with, if it recorded one."""
    if recorded not in (None, found):
        raise UserError(
            f"{what} has other weights (sha256 {found[:12]}) than those that the options name ({recorded[:12]}); give "
            "these by `set` loss.features.weights=FILE"
        )


def resampled(tokens: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Interpolate tokens [B,h*w,D] on a grid (h, w) bilinearly to [B,h'*w',D] on another; a coarser one averages."""
    if grid == wanted:
        return tokens
    maps = tokens.transpose(1, 2).unflatten(2, grid)
    return F.interpolate(maps, wanted, mode="bilinear", antialias=True).flatten(2).transpose(1, 2)
