"""The classifier of noisy images of ADM (Dhariwal & Nichol 2021, arXiv 2105.05233), under its published names."""

from torch import Tensor, nn

from elucid.training.networks.adm_layers import AttentionPool, Style, group_norm
from elucid.training.networks.adm_unet import ADMHalf
from elucid.training.networks.layers import Conv2d, zeros
from elucid.training.networks.resolutions import ResolutionPlan
from elucid.training.types import Cond

POOLS = ("attention", "average")


class ADMEncoder(ADMHalf):
    """Encoder half of `ADMUNet` with pooling, F(x, c_noise, cond): [B,in_channels,H,W] -> logits [B,out_channels].

    `pool` is attention (images of one size only) or average. Other options as in `ADMUNet`. Raises UserError if an
    option does not fit.
    """

    uses_all_parameters = True

    def __init__(
        self,
        img_resolution: int | list[int],
        in_channels: int,
        out_channels: int,
        vector: dict[str, int] | None = None,
        model_channels: int = 128,
        channel_mult: list[float] = (1, 2, 3, 4),
        channel_mult_emb: int = 4,
        num_blocks: int = 2,
        attn_resolutions: list[int] = (32, 16, 8),
        pool: str = "attention",
        num_heads: int | None = None,
        channels_per_head: int = 64,
        resblock_updown: bool = True,
        conv_resample: bool = True,
        scale_shift_norm: bool = True,
        skip_rescale: bool = False,
        activation: str = "silu",
        new_attention_order: bool = False,
        dropout: float = 0.0,
        label_dropout: float = 0.0,
        implicit_mlp: bool = False,
        checkpoint: bool = False,
    ):
        style = Style(
            num_heads, channels_per_head, resblock_updown, conv_resample, scale_shift_norm, skip_rescale, activation,
            new_attention_order, dropout, checkpoint,
        )  # fmt: skip
        plan = ResolutionPlan(img_resolution, channel_mult, model_channels, attn_resolutions)
        plan.require("pool", pool, POOLS)
        super().__init__(plan, in_channels, vector, label_dropout, num_blocks, channel_mult_emb, implicit_mlp, style)
        last = plan.resolutions[-1]
        if pool == "attention":
            heads = Style(channels_per_head=channels_per_head).heads(last.channels)
            pooling = [AttentionPool(last.height * last.width, last.channels, heads, out_channels)]
        else:
            pooling = [nn.AdaptiveAvgPool2d(1), Conv2d(last.channels, out_channels, 1, init=zeros()), nn.Flatten()]
        self.out = nn.Sequential(group_norm(last.channels), style.act(), *pooling)

    def forward(self, x: Tensor, c_noise: Tensor, cond: Cond) -> Tensor:
        emb = self.embed(c_noise, cond).to(x.dtype)
        return self.out(self.encode(x, emb)[0])
