"""FLOP of a pass, with those of what torch's counter leaves out on a CPU: its attention, and oneDNN's linear maps."""

import math

import torch
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula, sdpa_flop_count

if hasattr(torch.ops.mkldnn, "_linear_pointwise"):

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _of_linear(x_shape, weight_shape, *_, out_shape=None, **__) -> int:
        return 2 * math.prod(x_shape) * weight_shape[0]


@register_flop_formula(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu)
def _of_attention(q_shape, k_shape, v_shape, *_, out_shape=None, **__) -> int:
    return sdpa_flop_count(q_shape, k_shape, v_shape)


def flop(model: torch.nn.Module, *inputs) -> int:
    """FLOP of a forward pass, 2 for each multiply-add."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(*inputs)
    return counter.get_total_flops()
