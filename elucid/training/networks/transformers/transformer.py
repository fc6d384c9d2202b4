"""Diffusion transformers of one stack of blocks: DiT, SiT, LightningDiT and JiT are options of this one."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from elucid.dnnlib.errors import UserError
from elucid.training.networks.transformers.base import TokenNetwork, require_blocks, require_choice, require_heads
from elucid.training.networks.transformers.blocks import (
    GELUMLP,
    Attention,
    Block,
    BottleneckPatchEmbedding,
    FinalLayer,
    LayerNorm,
    PatchEmbedding,
    RMSNorm,
    SwiGLU,
    image,
)
from elucid.training.networks.transformers.embeddings import Positions, Rotary
from elucid.training.types import Cond

NORMS = {"layer": LayerNorm, "rms": RMSNorm}
MLPS = {"gelu": GELUMLP, "swiglu": SwiGLU}


class Transformer(TokenNetwork):
    """Transformer F(x, c_noise, cond): [B,in_channels,H,W] -> [B,out_channels,H,W] (Peebles & Xie 2022, DiT).

    Patches of `patch` pixels become tokens of `model_channels` (the width), through `bottleneck` channels if that is
    not 0, and pass `depth` blocks that time and labels modulate. `norm` is "layer" or "rms"; `mlp` "gelu", of mlp_ratio
    times the width, or "swiglu", of 2/3 of that; `qk_norm` normalises queries and keys; `positions` is "sincos" or
    "none", `rotary` rotates queries and keys as well. From block `context_start` on (counted from 0), `context_tokens`
    tokens of the labels precede the others (JiT). Without `shift` blocks are modulated by scales and gates only.
    `dropout` acts in all blocks or, with `dropout_blocks` "middle", in the middle half. `null_class` is a row for no
    label, which labels that are all zero pick.
    """

    uses_all_parameters = recordable = True

    def __init__(
        self,
        img_resolution: int | list[int],
        in_channels: int,
        out_channels: int,
        vector: dict[str, int] | None = None,
        features: list[str] = (),
        patch: int = 2,
        model_channels: int = 384,
        depth: int = 12,
        num_heads: int = 6,
        mlp_ratio: float = 4.0,
        norm: str = "layer",
        mlp: str = "gelu",
        qk_norm: bool = False,
        positions: str = "sincos",
        rotary: bool = False,
        bottleneck: int = 0,
        context_tokens: int = 0,
        context_start: int = 0,
        shift: bool = True,
        dropout: float = 0.0,
        dropout_blocks: str = "all",
        null_class: bool = True,
        time_period: float = 10000.0,
    ):
        require_choice("norm", norm, NORMS)
        require_choice("mlp", mlp, MLPS)
        require_choice("positions", positions, ("sincos", "none"))
        require_choice("dropout_blocks", dropout_blocks, ("all", "middle"))
        require_context(context_tokens, context_start, depth)
        if bottleneck < 0:
            raise UserError(f"network.bottleneck={bottleneck} must be 0 or more; 0 is none")
        shape = (patch, model_channels, depth, num_heads)
        super().__init__(img_resolution, vector, *shape, features, null_class, time_period, context_tokens)
        require_heads(model_channels, num_heads, rotary)
        require_blocks(depth, model_channels, mlp_ratio, dropout)
        if positions == "sincos" and model_channels % 4:
            raise UserError(
                f"network.positions=sincos needs a width divisible by 4, not model_channels={model_channels} (`cbase`)"
            )
        self.context_start = context_start
        self.x_embedder = (
            BottleneckPatchEmbedding(in_channels, bottleneck, model_channels, patch)
            if bottleneck
            else PatchEmbedding(in_channels, model_channels, patch)
        )
        self.pos_embed = Positions(self.grid, model_channels) if positions == "sincos" else None
        self.rotary = Rotary(self.grid, model_channels // num_heads, context_tokens) if rotary else None
        of_heads: Callable[[int], nn.Module] | None = None
        if qk_norm:
            of_heads = RMSNorm if norm == "rms" else partial(LayerNorm, affine=True, eps=1e-5)
        hidden = int(model_channels * mlp_ratio)
        self.blocks = nn.ModuleList()
        for index in range(depth):
            inside = dropout_blocks == "all" or depth // 4 <= index < depth - depth // 4
            rate = dropout if inside else 0.0
            attention = Attention(model_channels, num_heads, norm=of_heads, dropout=rate)
            inner = MLPS[mlp](model_channels, hidden if mlp == "gelu" else hidden * 2 // 3, rate)
            self.blocks.append(Block(model_channels, NORMS[norm], attention, inner, shift))
        self.final_layer = FinalLayer(model_channels, patch * patch * out_channels, NORMS[norm])

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        self.require_grid(x)
        emb, labels = self.embed(self.t_embedder(c_noise), cond)
        c = F.silu(emb).to(x.dtype)[:, None]
        x = self.x_embedder(x)
        if self.pos_embed is not None:
            x = self.pos_embed(x)
        found: dict[str, Tensor] = {}
        extra = 0
        for index, block in enumerate(self.blocks):
            if self.in_context_posemb is not None and index == self.context_start:
                x = torch.cat([self.context(labels, x), x], dim=1)
                extra = self.in_context_posemb.shape[1]
            x = block(x, c, *(() if self.rotary is None else self.rotary(extra)))
            self.keep(found, index, x[:, extra:])
        x = image(self.final_layer(x[:, extra:], c), self.patch, self.grid)
        return (x, found) if self.features else x

    def context(self, labels: Tensor | None, x: Tensor) -> Tensor:
        """Return the tokens of the labels [B,context_tokens,D]: one embedding at several learned positions."""
        assert self.in_context_posemb is not None
        tokens = self.in_context_posemb.to(x.dtype)
        return tokens.expand(len(x), -1, -1) if labels is None else tokens + labels.to(x.dtype)[:, None]


def require_context(tokens: int, start: int, depth: int) -> None:
    """Raise UserError unless there is a block before which the context can be put."""
    if tokens < 0:
        raise UserError(f"network.context_tokens={tokens} must be 0 or more")
    if tokens and not 0 <= start < depth:
        raise UserError(f"network.context_start={start} is no block of {depth}; use 0 to {depth - 1}")
