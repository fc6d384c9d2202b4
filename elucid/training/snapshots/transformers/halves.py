"""The weights of a transformer that also outputs a variance, or SiT's unused channels, without that half."""

from torch import Tensor

from elucid.training.networks.transformers.transformer import Transformer
from elucid.training.preconds.base import Preconditioned

LAST = ("model.final_layer.linear.weight", "model.final_layer.linear.bias")


def first_half(denoiser: Preconditioned, out_channels: int) -> dict[str, Tensor]:
    """Return the state of a denoiser; its last layer's rows for `out_channels`, if it has twice as many.

    The rows are [patch, patch, channel]. Other networks than transformers of one stack stay as they are.
    """
    state, spec = denoiser.state_dict(), denoiser.spec
    if isinstance(denoiser.model, Transformer) and spec.out_channels == 2 * out_channels == 2 * spec.image_channels:
        for name in LAST:
            rows = state[name].unflatten(0, (-1, spec.out_channels))
            state[name] = rows[:, :out_channels].flatten(0, 1)
    return state
