"""The ADM U-Net, its classifier and its super-resolution form equal the reference, under the public names."""

import pytest
import torch
from torch.nn import functional as F

from elucid.training.networks.adm_classifier import ADMEncoder
from elucid.training.networks.adm_unet import ADMUNet
from elucid.training.registry.adm_options import network_options
from tests import vectors


def network_of(case, arrays, **options):
    """The network that the reference's options describe, filled by the formula, by name and without a map."""
    kwargs = dict(case["kwargs"])
    classes, channels = kwargs.pop("num_classes", 0), kwargs.pop("in_channels")
    given = {
        "in_channels": channels * (2 if "low_res" in arrays else 1),
        "out_channels": kwargs.pop("out_channels"),
        "vector": {"labels": classes} if classes else {},
    }
    net = (ADMEncoder if "pool" in kwargs else ADMUNet)(**network_options(kwargs), **given, **options)
    vectors.fill(net, case["salt"], case["parameters"])
    return net.eval()


def inputs_of(case, arrays):
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    x, cond = tensors["x"], {}
    if "low_res" in tensors:
        enlarged = F.interpolate(tensors["low_res"], x.shape[2:], mode="bilinear", align_corners=False)
        x = torch.cat([x, enlarged], dim=1)
    if "y" in tensors:
        cond["labels"] = F.one_hot(tensors["y"], case["kwargs"]["num_classes"]).float()
    return x, tensors["timesteps"], cond


@pytest.mark.parametrize("path", vectors.cases("adm_networks/*"), ids=lambda path: path.stem)
def test_network(path):
    case, arrays = vectors.load(path)
    assert vectors.relative_error(network_of(case, arrays)(*inputs_of(case, arrays)), arrays["out"]) < 1e-5


@pytest.mark.parametrize("path", vectors.cases("adm_networks/*"), ids=lambda path: path.stem)
def test_checkpointing_changes_neither_outputs_nor_gradients(path):
    case, arrays = vectors.load(path)
    kept, recomputed = network_of(case, arrays), network_of(case, arrays, checkpoint=True)
    inputs = inputs_of(case, arrays)
    outputs = [net(*inputs) for net in (kept, recomputed)]
    assert torch.equal(*outputs)
    for out in outputs:
        out.square().sum().backward()
    for (name, first), second in zip(kept.named_parameters(), recomputed.parameters(), strict=True):
        assert torch.equal(first.grad, second.grad), name
