"""The state dict of a transformer as its original program stores it."""

from torch import Tensor, nn

from elucid.training.networks.transformers.embeddings import rotary_angles, sine_positions
from elucid.training.networks.transformers.transformer import Transformer


def original_state(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's weights by name; of a transformer with the fixed tables that its program keeps among them.

    These are `pos_embed` [1,N,width] and, of LightningDiT, `feat_rope.freqs_cos` and `freqs_sin` [N, width of a head].
    Files of JiT have the prefix `net.` besides, which its programs take off.
    """
    state = dict(network.state_dict())
    if not isinstance(network, Transformer):
        return state
    width = network.t_embedder.mlp[2].weight.shape[0]
    if network.pos_embed is not None:
        state["pos_embed"] = sine_positions(network.grid, width)[None].float()
    if network.rotary is not None and network.in_context_posemb is None and not hasattr(network.x_embedder, "proj1"):
        angles = rotary_angles(network.grid, width // network.blocks[0].attn.heads).repeat_interleave(2, dim=1)
        state["feat_rope.freqs_cos"], state["feat_rope.freqs_sin"] = angles.cos().float(), angles.sin().float()
    return state
