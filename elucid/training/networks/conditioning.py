"""Vector conditioning of networks: one linear map per condition."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from elucid.training.networks.layers import Linear, zeros
from elucid.training.types import Cond

PUBLISHED = {"labels": "map_label", "augment": "map_augment"}
"""Conditions whose map is not called `map_NAME` in published weights."""


NUMBERS = ("sigma_to", "guidance_scale")
"""Conditions that are one number, a second noise level or a scale: they are embedded by waves as the noise level is."""


class Conditioned(nn.Module):
    """Base class of networks with vector conditions; `vector` maps their names to widths.

    Each condition has a linear map, a submodule of the network. A subclass creates the maps with `add_map`, in the
    order of its weights, and adds their output to the embedding with `add_mapped`. `map_names` are the names of maps
    that are not called `map_NAME`. Of `NUMBERS` the map is of `waves`, and starts at 0, so that a network that starts
    from the weights of one without such a condition computes the same at first.
    """

    map_names = PUBLISHED

    def __init__(self, vector: dict[str, int] | None, label_dropout: float = 0.0):
        super().__init__()
        self.vector, self.label_dropout = dict(vector or {}), label_dropout

    @property
    def further(self) -> list[str]:
        """Names of conditions that the published networks do not have, e.g. a second noise level."""
        return [name for name in self.vector if name not in PUBLISHED]

    @property
    def waves(self) -> tuple[Callable[[Tensor], Tensor], int]:
        """The network's sinusoids of a number [B] -> [B,n], and n."""
        raise NotImplementedError(f"{type(self).__name__} must define waves, which embed a number")

    def add_map(self, name: str, n_out: int, **options) -> None:
        """Create the map of a condition, if the network has that condition."""
        if name in self.vector and name in NUMBERS:
            self.add_module(self.map_name(name), Linear(self.waves[1], n_out, bias=False, init=zeros()))
        elif name in self.vector:
            self.add_module(self.map_name(name), Linear(self.vector[name], n_out, **options))

    def map_name(self, name: str) -> str:
        """Return the name of the submodule that maps a condition."""
        return self.map_names.get(name, f"map_{name}")

    def add_mapped(self, emb: Tensor, name: str, cond: Cond, scale: float = 1.0) -> Tensor:
        """Add map(condition * scale) to the embedding [B,n_out], if the network has that condition."""
        if name not in self.vector or (name == "augment" and name not in cond):
            return emb
        value = cond[name].to(emb.dtype)
        if name in NUMBERS:
            value = self.waves[0](value.reshape(-1))
        if name == "labels" and self.training and self.label_dropout:
            keep = torch.rand(value.shape[0], 1, device=value.device) >= self.label_dropout
            value = value * keep.to(value.dtype)
        return emb + getattr(self, self.map_name(name))(value * scale if scale != 1 else value)
