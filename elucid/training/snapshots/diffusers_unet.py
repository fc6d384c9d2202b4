"""The network `adm_unet` as the `UNet2DModel` of the diffusers library: options and weights under the names there."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from elucid.dnnlib.errors import UserError
from elucid.training.networks.adm_layers import Block, Downsample, SelfAttention, Stage, Upsample
from elucid.training.networks.adm_unet import ADMUNet
from elucid.training.networks.layers import GroupNorm

GROUPS = 32


def unmapped(option: str, needed: str) -> UserError:
    """Return the error for an option that diffusers does not have."""
    return UserError(f"{option} cannot be exported to diffusers, which has only {needed}; use export.py safetensors")


def unet_config(network: nn.Module) -> dict[str, Any]:
    """Return the constructor's options of the `UNet2DModel` that computes the same function.

    Conditions `labels` become class numbers, of which the last is no class. `augment` is left out, as it is zero when
    sampling. Raises UserError naming the first option without an equal there.
    """
    if type(network) is not ADMUNet:
        raise unmapped(f"the network {type(network).__name__}", "that of --arch=adm_unet")
    given = network.config["options"]
    require_options(network, given)
    attention = [any(isinstance(layer, SelfAttention) for layer in stage) for stage in _first_of_levels(network)]
    widths = [stage[0].out_layers[0].weight.shape[0] for stage in _first_of_levels(network)]
    joined = "resnet" if network.style.resblock_updown else "conv"
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if joined == "resnet" else ("DownBlock2D", "UpBlock2D")
    size = given["img_resolution"]
    config = {
        "sample_size": size if isinstance(size, int) else list(size),
        "in_channels": given["in_channels"],
        "out_channels": given["out_channels"],
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "freq_shift": 0,
        "flip_sin_to_cos": True,
        "down_block_types": ["AttnDownBlock2D" if one else plain[0] for one in attention],
        "up_block_types": ["AttnUpBlock2D" if one else plain[1] for one in reversed(attention)],
        "block_out_channels": widths,
        "layers_per_block": given["num_blocks"],
        "mid_block_scale_factor": 1,
        "downsample_padding": 1,
        "downsample_type": joined,
        "upsample_type": joined,
        "dropout": network.style.dropout,
        "act_fn": "silu",
        "attention_head_dim": head_width(network, given),
        "norm_num_groups": GROUPS,
        "attn_norm_num_groups": GROUPS,
        "norm_eps": 1e-5,
        "resnet_time_scale_shift": "scale_shift" if network.style.scale_shift_norm else "default",
        "add_attention": True,
        "class_embed_type": None,
        "num_class_embeds": network.vector["labels"] + 1 if "labels" in network.vector else None,
    }
    # Older versions of the library do not know the option.
    return config if network.n_emb == 4 * widths[0] else {**config, "time_embedding_dim": network.n_emb}


def require_options(network: ADMUNet, given: dict[str, Any]) -> None:
    """Raise UserError for options that the other network does not have."""
    only = {"activation": "silu", "skip_rescale": False, "implicit_mlp": False}
    for name, value in only.items():
        if given[name] != value:
            raise unmapped(f"{name}={given[name]}", f"{name}={value}")
    if network.halvings and not (given["conv_resample"] or given["resblock_updown"]):
        raise unmapped("conv_resample=False", "conv_resample=True or resblock_updown=True")
    if given["channel_mult"][0] != 1:
        raise unmapped(f"channel_mult={list(given['channel_mult'])}", "multipliers that begin with 1")
    if network.further:
        raise unmapped(f"the condition {network.further[0]!r} of the network", "classes")
    if any(isinstance(layer, GroupNorm) and layer.groups != GROUPS for layer in network.modules()):
        option = f"model_channels={given['model_channels']} with channel_mult={list(given['channel_mult'])}"
        raise unmapped(option, f"layers with a multiple of {GROUPS} channels")


def head_width(network: ADMUNet, given: dict[str, Any]) -> int | None:
    """Return the channels of each attention head, None if all layers have one head. Raises UserError for a mixture."""
    layers = [layer for layer in network.modules() if isinstance(layer, SelfAttention)]
    if all(layer.heads == 1 for layer in layers):
        return None
    widths = {len(layer.norm.weight) // layer.heads for layer in layers}
    if len(widths) > 1:
        option = next(name for name in ("num_heads_upsample", "num_heads", "channels_per_head") if given[name])
        many = " and ".join(map(str, sorted(widths)))
        raise unmapped(f"{option}={given[option]} with heads of {many} channels", "heads of one width")
    return widths.pop()


def unet_weights(network: ADMUNet) -> dict[str, Tensor]:
    """Return float32 weights by their names in `UNet2DModel`, for a network that `unet_config` accepts."""
    weights = {}
    for name, layer in named_layers(network):
        weights |= {f"{name}.{part}": value.detach().cpu().to(torch.float32) for part, value in _parts(network, layer)}
    if "labels" in network.vector:
        table = network.label_emb.weight.detach().cpu().to(torch.float32)
        weights["class_embedding.weight"] = torch.cat([table, torch.zeros_like(table[:1])])
    return {name: value.clone().contiguous() for name, value in weights.items()}


def named_layers(network: ADMUNet) -> Iterator[tuple[str, nn.Module]]:
    """Yield layers, blocks and attention layers with their names in `UNet2DModel`."""
    per_level = _stages_per_level(network)
    yield "conv_in", network.input_blocks[0][0]
    yield "time_embedding.linear_1", network.time_embed[0]
    yield "time_embedding.linear_2", network.time_embed[2]
    for position, stage in enumerate(network.input_blocks):
        level, index = divmod(position, per_level)
        if index:
            yield from _of_stage(f"down_blocks.{level}", index - 1, stage)
        elif level:  # here a stage before the blocks of a level, there the end of the level above
            yield f"down_blocks.{level - 1}.downsamplers.0", stage[0]
    first, attention, second = network.middle_block
    yield from (("mid_block.resnets.0", first), ("mid_block.attentions.0", attention), ("mid_block.resnets.1", second))
    for position, stage in enumerate(network.output_blocks):
        level, index = divmod(position, per_level)
        yield from _of_stage(f"up_blocks.{level}", index, stage)
    yield "conv_norm_out", network.out[0]
    yield "conv_out", network.out[2]


def _stages_per_level(network: ADMUNet) -> int:
    """Return the number of stages of each resolution: its blocks and one that changes the resolution or begins."""
    return len(network.input_blocks) // (network.halvings + 1)


def _first_of_levels(network: ADMUNet) -> list[Stage]:
    """Return the first stage with a block of each resolution in the encoder."""
    return list(network.input_blocks[1 :: _stages_per_level(network)])


def _of_stage(block: str, index: int, stage: Stage) -> Iterator[tuple[str, nn.Module]]:
    yield f"{block}.resnets.{index}", stage[0]
    for layer in stage[1:]:
        yield f"{block}.attentions.{index}" if isinstance(layer, SelfAttention) else f"{block}.upsamplers.0", layer


def _parts(network: ADMUNet, layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of a layer by their names in the layer there."""
    if isinstance(layer, SelfAttention):
        yield from _attention_parts(layer, network.style.new_attention_order)
    elif isinstance(layer, Block):
        parts = {
            "norm1": layer.in_layers[0],
            "conv1": layer.in_layers[2],
            "time_emb_proj": layer.emb_layers[1],
            "norm2": layer.out_layers[0],
            "conv2": layer.out_layers[3],
            "conv_shortcut": layer.skip_connection,
        }
        for name, part in parts.items():
            yield from ((f"{name}.{key}", value) for key, value in part.named_parameters())
    elif isinstance(layer, (Downsample, Upsample)):
        convolution = layer.op if isinstance(layer, Downsample) else layer.conv
        yield from ((f"conv.{key}", value) for key, value in convolution.named_parameters())
    else:
        yield from layer.named_parameters()


def _attention_parts(layer: SelfAttention, grouped: bool) -> Iterator[tuple[str, Tensor]]:
    """Yield the weights of an attention layer, whose queries, keys and values have layers of their own there."""
    yield from ((f"group_norm.{name}", value) for name, value in layer.norm.named_parameters())
    shape = (3, layer.heads, -1) if grouped else (layer.heads, 3, -1)
    for name, value in layer.qkv.named_parameters():
        rows = value.squeeze(-1) if name == "weight" else value
        split = rows.unflatten(0, shape).unbind(0 if grouped else 1)
        yield from ((f"to_{kind}.{name}", one.flatten(0, 1)) for kind, one in zip("qkv", split, strict=True))
    for name, value in layer.proj_out.named_parameters():
        yield f"to_out.0.{name}", value.squeeze(-1) if name == "weight" else value
