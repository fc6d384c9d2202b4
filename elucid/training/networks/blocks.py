"""Blocks shared by the U-Nets, composed of `layers`."""

from torch import Tensor, nn

from elucid.training.networks.attention import attention
from elucid.training.networks.kernels.dropout import Dropout
from elucid.training.networks.kernels.fused_norm import norm_silu
from elucid.training.networks.kernels.fused_residual import FusedResidual
from elucid.training.networks.kernels.rows import runs_fused
from elucid.training.networks.layers import Conv2d, GroupNorm, Init, Linear, Resample


class ResidualBlock(nn.Module):
    """Residual block of two 3x3 convolutions, conditioned on an embedding, with optional self-attention.

    [B,n_in,H,W], [B,n_emb] -> [B,n_out,H',W']. The embedding shifts the second normalisation (DDPM++) or, with
    `adaptive_scale`, scales and shifts it (ADM). The residual sums are multiplied by `skip_scale`.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        n_emb: int,
        *,
        heads: int = 0,
        resample: str | None = None,
        taps: list[int] | None = None,
        project_skip: bool = False,
        adaptive_scale: bool = False,
        skip_scale: float = 1.0,
        eps: float = 1e-5,
        dropout: float = 0.0,
        init: Init | None = None,
        bias_init: Init | None = None,
        last_init: Init | None = None,
        qkv_init: Init | None = None,
    ):
        super().__init__()
        self.heads, self.adaptive_scale, self.skip_scale = heads, adaptive_scale, skip_scale
        inits = {"init": init, "bias_init": bias_init}
        self.norm0 = GroupNorm(n_in, eps)
        self.conv0 = Conv2d(n_in, n_out, 3, resample, taps, **inits)
        self.affine = Linear(n_emb, n_out * (2 if adaptive_scale else 1), **inits)
        self.norm1 = GroupNorm(n_out, eps)
        self.dropout = Dropout(dropout)
        self.conv1 = Conv2d(n_out, n_out, 3, init=last_init)
        self.resample_skip = None
        self.skip = None
        if n_in != n_out or (resample and project_skip):
            self.skip = Conv2d(n_in, n_out, 1, resample, taps, **inits)
        elif resample:
            self.resample_skip = Resample(resample, taps or [1, 1])
        if heads:
            self.norm2 = GroupNorm(n_out, eps)
            self.qkv = Conv2d(n_out, 3 * n_out, 1, init=qkv_init or init, bias_init=bias_init)
            self.proj = Conv2d(n_out, n_out, 1, init=last_init)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        fused = self.norm0.fused and runs_fused(x)
        # The biases of convolutions are added where their sums are read anyway.
        how = {"biased": False} if fused else {}
        h = self.conv0(norm_silu(self.norm0, x), **how)
        before = self.conv0.bias.to(x.dtype) if fused else None
        condition = self.affine(emb)[:, :, None, None]
        if self.adaptive_scale:
            h = norm_silu(self.norm1, h, None, *condition.chunk(2, dim=1), before=before)
        else:
            h = norm_silu(self.norm1, h, condition, before=before)
        h = self.conv1(self.dropout(h), **how)
        bias = self.conv1.bias.to(x.dtype) if fused else None
        if self.skip is not None:
            x = self.skip(x, **how)
            bias = bias + self.skip.bias.to(x.dtype) if fused else bias
        elif self.resample_skip is not None:
            x = self.resample_skip(x)
        x = FusedResidual.apply(x, h, bias, self.skip_scale) if fused else self._scaled(x + h)
        if not self.heads:
            return x
        if fused:
            h = self.proj(self.attend_rows(self.norm2(x)), **how)
            return FusedResidual.apply(x, h, self.proj.bias.to(x.dtype), self.skip_scale)
        return self._scaled(x + self.proj(self.attend(self.norm2(x))))

    def _scaled(self, x: Tensor) -> Tensor:
        """Multiply a sum that nothing else reads, in its place."""
        return x if self.skip_scale == 1 else x.mul_(self.skip_scale)

    def attend(self, x: Tensor) -> Tensor:
        """Self-attention over the H*W positions."""
        batch, channels, height, width = x.shape
        # q, k, v are interleaved along the last axis of a head's channels, as in the published weights.
        qkv = self.qkv(x).reshape(batch, self.heads, channels // self.heads, 3, height * width)
        q, k, v = (part.transpose(2, 3).contiguous() for part in qkv.unbind(3))
        return attention(q, k, v).transpose(2, 3).reshape(batch, channels, height, width)

    def attend_rows(self, x: Tensor) -> Tensor:
        """The same for images whose channels are last in memory, as the result's are."""
        batch, channels, height, width = x.shape
        qkv = self.qkv(x).permute(0, 2, 3, 1).reshape(batch, -1, self.heads, channels // self.heads, 3)
        q, k, v = qkv.permute(4, 0, 2, 1, 3).contiguous()
        mixed = attention(q, k, v).transpose(1, 2).reshape(batch, height, width, channels)
        return mixed.permute(0, 3, 1, 2)


def implicit_mlp_stem(n_in: int, n_out: int, **inits) -> nn.Sequential:
    """Return a stem of three 1x1 convolutions and the first 3x3 convolution (Wang et al. 2023)."""
    layers: list[nn.Module] = []
    for n_before in (n_in, n_out, n_out):
        layers += [Conv2d(n_before, n_out, 1, **inits), nn.SiLU()]
    return nn.Sequential(*layers, Conv2d(n_out, n_out, 3, **inits))
