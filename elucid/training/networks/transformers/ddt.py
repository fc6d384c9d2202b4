"""DDT (Wang et al. 2025, arXiv 2504.05741): an encoder of blocks makes the condition of the decoder's blocks."""

from torch import Tensor, nn
from torch.nn import functional as F

from elucid.dnnlib.errors import UserError
from elucid.training.networks.transformers.base import TokenNetwork, require_blocks, require_heads
from elucid.training.networks.transformers.blocks import (
    Attention,
    Block,
    FinalLayer,
    LayerNorm,
    PatchEmbedding,
    RMSNorm,
    SplitSwiGLU,
    image,
)
from elucid.training.networks.transformers.embeddings import Rotary
from elucid.training.types import Cond

SPAN = 16.0
"""The rotary positions of each axis, from 0; images of another size are stretched to them."""


class DDT(TokenNetwork):
    """Encoder-decoder transformer F(x, c_noise, cond): [B,in_channels,H,W] -> [B,out_channels,H,W].

    s = SiLU(encoder(patches; SiLU(time + labels)) + time) [B,N,D] modulates each token of the decoder, which starts
    from patches of the same image. `encoder_depth` of the `depth` blocks are the encoder. RMS norm, SwiGLU and
    query-key norm; rotary positions only. Gates do not start at zero, the last layer does.
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
        model_channels: int = 1152,
        depth: int = 28,
        encoder_depth: int = 22,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        null_class: bool = True,
        time_period: float = 10.0,
    ):
        if depth < 2:
            raise UserError(f"network.depth={depth} must be 2 or more, for blocks of encoder and decoder")
        if not 0 < encoder_depth < depth:
            raise UserError(f"network.encoder_depth={encoder_depth} must be 1 to {depth - 1}, less than the depth")
        shape = (patch, model_channels, depth, num_heads)
        super().__init__(img_resolution, vector, *shape, features, null_class, time_period)
        require_heads(model_channels, num_heads, rotary=True)
        require_blocks(depth, model_channels, mlp_ratio, dropout)
        self.encoder_depth = encoder_depth
        self.x_embedder = PatchEmbedding(in_channels, model_channels, patch, flat=True)
        self.s_embedder = PatchEmbedding(in_channels, model_channels, patch, flat=True)
        self.rotary = Rotary(self.grid, model_channels // num_heads, span=SPAN)
        hidden = int(model_channels * mlp_ratio) * 2 // 3
        self.blocks = nn.ModuleList()
        for _ in range(depth):
            attention = Attention(model_channels, num_heads, bias=False, norm=RMSNorm, dropout=dropout)
            mlp = SplitSwiGLU(model_channels, hidden, dropout)
            self.blocks.append(Block(model_channels, RMSNorm, attention, mlp, zero=False, place=0))
        self.final_layer = FinalLayer(model_channels, patch * patch * out_channels, LayerNorm, place=0)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        self.require_grid(x)
        time = self.t_embedder(c_noise)
        c = F.silu(self.embed(time, cond)[0]).to(x.dtype)[:, None]
        found: dict[str, Tensor] = {}
        rotary = self.rotary()
        tokens, state = self.x_embedder(x), self.s_embedder(x)
        for index, block in enumerate(self.blocks):
            if index == self.encoder_depth:
                c, state = F.silu(state + time.to(x.dtype)[:, None]), tokens
            state = block(state, c, *rotary)
            self.keep(found, index, state)
        x = image(self.final_layer(state, c), self.patch, self.grid, channel_first=True)
        return (x, found) if self.features else x
