"""The reference's order of operations, for runs that amplify float32 rounding beyond any tolerance.

Our networks join the bias to the convolution and leave attention to torch's fused kernel: the same numbers, faster, but
rounded otherwise. In the reference's order, on two threads and a processor with the same kernels as the one that made
the vectors (AVX-512), networks and samplers equal it to the last bit.
"""

import math
from contextlib import contextmanager
from functools import lru_cache

import pytest
import torch
from torch.nn import functional as F

from elucid.training.networks.layers import Conv2d
from elucid.training.networks.song_unet import SongUNet
from tests import vectors


def convolution(self, x):
    if self.resample is not None:
        x = self.resample(x)
    return F.conv2d(x, self.weight, padding=self.padding) + self.bias.reshape(1, -1, 1, 1)


def attention(q, k, v):
    weights = torch.einsum("...qc,...kc->...qk", q, k / math.sqrt(k.shape[-1])).softmax(-1)
    return torch.einsum("...qk,...kc->...qc", weights, v)


@contextmanager
def reference_arithmetic():
    """Networks compute in the reference's order for a while."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Conv2d, "forward", convolution)
            patch.setattr(F, "scaled_dot_product_attention", attention)
            yield
    finally:
        torch.set_num_threads(threads)


@lru_cache
def same_kernels() -> bool:
    """Whether this processor rounds as the reference's did: a whole network gives the recorded bits."""
    found = vectors.cases("networks/ddpmpp_cond")
    if not found:
        return False
    case, arrays = vectors.load(found[0])
    net = SongUNet(**vectors.network_options(case["kwargs"]))
    vectors.fill(net, case["salt"], case["parameters"])
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    cond = {"labels": tensors["class_labels"], "augment": tensors["augment_labels"]}
    with reference_arithmetic(), torch.no_grad():
        return torch.equal(net.eval()(tensors["x"], tensors["noise_labels"], cond), tensors["out"])
