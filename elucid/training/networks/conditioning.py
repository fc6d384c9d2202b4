"""Conditions of the whole image, as a network takes them: one linear map for each, by name."""

import torch
from torch import Tensor, nn

from elucid.training.networks.layers import Linear
from elucid.training.types import Cond

PUBLISHED = {"labels": "map_label", "augment": "map_augment"}
"""Maps whose parameters have other names than `map_NAME` in published weights."""


class Conditioned(nn.Module):
    """Base of networks that are told `vector` conditions, name -> width; each has a map, a child of the network.

    A subclass makes the maps with `add_map`, in the order of its weights, and adds what they give with `add_mapped`.
    """

    def __init__(self, vector: dict[str, int] | None, label_dropout: float = 0.0):
        super().__init__()
        self.vector, self.label_dropout = dict(vector or {}), label_dropout

    @property
    def further(self) -> list[str]:
        """Conditions that the published networks do not have, e.g. a second noise level."""
        return [name for name in self.vector if name not in PUBLISHED]

    def add_map(self, name: str, n_out: int, **options) -> None:
        """Make the map of a condition, if the network has it."""
        if name in self.vector:
            self.add_module(PUBLISHED.get(name, f"map_{name}"), Linear(self.vector[name], n_out, **options))

    def add_mapped(self, emb: Tensor, name: str, cond: Cond, scale: float = 1.0) -> Tensor:
        """The embedding [B,n_out] plus the mapped condition times `scale`; as it is without that condition."""
        if name not in self.vector or (name == "augment" and name not in cond):
            return emb
        value = cond[name].to(emb.dtype)
        if name == "labels" and self.training and self.label_dropout:
            keep = torch.rand(value.shape[0], 1, device=value.device) >= self.label_dropout
            value = value * keep.to(value.dtype)
        return emb + getattr(self, PUBLISHED.get(name, f"map_{name}"))(value * scale if scale != 1 else value)
