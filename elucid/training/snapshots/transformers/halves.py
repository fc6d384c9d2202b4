"""The weights of a transformer that also outputs a variance, or SiT's unused channels, without that half."""

from torch import Tensor

from elucid.training.networks.transformers.transformer import Transformer
from elucid.training.preconds.base import Preconditioned

LAST = ("model.final_layer.linear.weight", "model.final_layer.linear.bias")


def state_for(new: Preconditioned, old: Preconditioned) -> dict[str, Tensor]:
    """Return the state of `old`; of its last layer only the image's rows if `new` has no others.

    The rows are [patch, patch, channel]. Other networks than transformers of one stack stay as they are.
    """
    state = old.state_dict()
    if isinstance(getattr(old, "model", None), Transformer) and isinstance(new.model, Transformer):
        channels = old.spec.image_channels
        if (old.spec.out_channels, new.spec.out_channels) == (2 * channels, channels):
            for name in LAST:
                rows = state[name].unflatten(0, (-1, 2 * channels))
                state[name] = rows[:, :channels].flatten(0, 1)
    return state
