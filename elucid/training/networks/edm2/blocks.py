"""The residual block of EDM2, and which of the paper's changes it has."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elucid.training.networks.attention import attention
from elucid.training.networks.edm2.layers import UnitLayer
from elucid.training.networks.edm2.magnitude import SILU_MAGNITUDE, balanced_concat, balanced_shares, unit_magnitude
from elucid.training.networks.kernels.dropout import Dropout
from elucid.training.networks.layers import GroupNorm, Resample


@dataclass(frozen=True)
class Design:
    """Which of the changes from configuration B to G a network has (Karras et al. 2024, table 1).

    `unit_functions`: SiLU, sums and concatenations that keep magnitudes (configuration G), instead of plain ones.
    """

    biases: bool = False
    cosine_attention: bool = True
    normalised_weights: bool = True
    group_norm: bool = False
    pixel_norm: bool = True
    unit_functions: bool = True

    def layer(self, n_in: int, n_out: int, kernel: int = 0) -> UnitLayer:
        return UnitLayer(n_in, n_out, kernel, self.normalised_weights, self.biases)

    def norm(self, channels: int) -> nn.Module:
        return GroupNorm(channels) if self.group_norm else nn.Identity()

    @property
    def silu_gain(self) -> float:
        """What SiLU is multiplied by."""
        return 1 / SILU_MAGNITUDE if self.unit_functions else 1.0

    def shares(self, balance: float) -> tuple[float, float]:
        """Return the factors of what a branch is added to, and of the branch."""
        return balanced_shares(balance) if self.unit_functions else (1.0, 1.0)

    def concat(self, a: Tensor, b: Tensor, balance: float) -> Tensor:
        return balanced_concat(a, b, balance) if self.unit_functions else torch.cat([a, b], dim=1)


@dataclass(frozen=True)
class Balance:
    """How much of the magnitude of a sum comes from the branch, 0 to 1, and at what activations are clipped."""

    residual: float = 0.3
    attention: float = 0.3
    clip: float | None = 256.0


class EDM2Block(nn.Module):
    """Residual block of two 3x3 convolutions with self-attention, [B,n_in,H,W], [B,n_emb] -> [B,n_out,H',W'].

    The embedding scales the features between the convolutions by 1 + gain * linear(emb), whose gain starts at 0. In the
    encoder (`decodes` False) the input is brought to its new width first and each pixel to magnitude 1; in the decoder
    the branch sees the input as it is. Attention needs `heads` > 0. `resample` ("up", "down") comes before all.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_emb: int,
        *,
        decodes: bool,
        heads: int = 0,
        resample: str | None = None,
        taps: list[int] | None = None,
        dropout: float = 0.0,
        design: Design | None = None,
        balance: Balance | None = None,
    ):
        super().__init__()
        self.decodes, self.heads, self.dropout = decodes, heads, Dropout(dropout)
        self.design, self.balance = design or Design(), balance or Balance()
        layer, norm = self.design.layer, self.design.norm
        self.resample = Resample(resample, taps or [1, 1]) if resample else nn.Identity()
        n_branch = n_in if decodes else n_out
        self.norm0 = norm(n_branch)
        self.conv_res0 = layer(n_branch, n_out, 3)
        self.emb_gain = nn.Parameter(torch.empty(1))  # not a scalar, which cannot be shared out
        self.emb_linear = layer(n_emb, n_out)
        self.norm1 = norm(n_out)
        self.conv_res1 = layer(n_out, n_out, 3)
        self.conv_skip = layer(n_in, n_out, 1) if n_in != n_out else None
        if heads:
            self.norm2 = norm(n_out)
            self.attn_qkv = layer(n_out, 3 * n_out, 1)
            self.attn_proj = layer(n_out, n_out, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.emb_gain)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        design, balance = self.design, self.balance
        x = self.resample(x)
        if not self.decodes:
            x = x if self.conv_skip is None else self.conv_skip(x)
            x = unit_magnitude(x, (1,)) if design.pixel_norm else x
        scale = self.emb_linear(emb, self.emb_gain)[:, :, None, None] + 1
        of_silu = design.silu_gain
        branch = self.conv_res0(F.silu(self.norm0(x)), of_input=of_silu)
        branch = F.silu(self.norm1(branch) * scale.to(branch.dtype))
        branch = self.dropout(branch)
        kept, added = design.shares(balance.residual)
        branch = self.conv_res1(branch, of_input=of_silu, of_output=added)
        if self.decodes and self.conv_skip is not None:
            x = self.conv_skip(x)
        x = torch.add(branch, x, alpha=kept)
        if self.heads:
            kept, added = design.shares(balance.attention)
            x = torch.add(self.attn_proj(self.attend(self.norm2(x)), of_output=added), x, alpha=kept)
        return x if balance.clip is None else x.clamp(-balance.clip, balance.clip)

    def attend(self, x: Tensor) -> Tensor:
        """Self-attention over the H*W positions; with `cosine_attention` of vectors of magnitude 1."""
        batch, channels, height, width = x.shape
        # q, k, v are interleaved along the last axis of a head's channels, as in the published weights.
        qkv = self.attn_qkv(x).reshape(batch, self.heads, channels // self.heads, 3, height * width)
        qkv = unit_magnitude(qkv, (2,)) if self.design.cosine_attention else qkv
        q, k, v = (part.transpose(2, 3).contiguous() for part in qkv.unbind(3))
        return attention(q, k, v).transpose(2, 3).reshape(batch, channels, height, width)
