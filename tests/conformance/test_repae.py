"""REPA-E's latents, normalised by a batch norm without gain, are latents with statistics of each channel."""

import pytest
import torch
from torch import nn

from elucid.training.encoders.statistics import ChannelStatistics
from elucid.training.losses.flow import FlowMatching
from elucid.training.noise.times import UniformTime
from elucid.training.types import Batch
from tests import vectors
from tests.conformance.test_flow_networks import filled, load, one_hot

EPS, MOMENTUM = 1e-4, 0.1


@pytest.mark.parametrize("path", vectors.cases("transformers/repae/losses"), ids=lambda path: path.stem)
@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("form", ["linear", "cosine"])
def test_losses_on_normalised_latents(path, mode, form):
    """By the running statistics as a frozen autoencoder is used, and by those of the batch as it is trained."""
    case, arrays = load(path)
    latents, t = arrays["latents"], arrays["t"]
    mean, variance = arrays["init_bias"], arrays["init_scale"] ** -2
    if mode == "train":
        mean, variance = latents.mean((0, 2, 3)), latents.var((0, 2, 3), unbiased=False)
    statistics = ChannelStatistics(mean.tolist(), (variance + EPS).sqrt().tolist(), final_std=1.0)
    x0 = statistics.normalise(latents)
    denoiser = filled("repae", case["kwargs"], case, x0.shape[1:], case["kwargs"]["num_classes"], path=form)
    sigma = denoiser.process.sigma(t.double()).float()
    labels = one_hot(arrays["y"], denoiser.spec.label_dim)
    error = FlowMatching(UniformTime(), mean=True).evaluate(denoiser, Batch(x0, labels), sigma, arrays["eps"]).error
    assert vectors.relative_error(error.mean((1, 2, 3)), arrays[f"{mode}:full:{form}:denoising"]) < 1e-5
    with torch.no_grad():
        a, b = denoiser.process.scales(sigma)
        out = denoiser.model(a * x0 + b * arrays["eps"], t.flatten(), labels)
    assert vectors.relative_error(out, arrays[f"{mode}:full:{form}:out"]) < 1e-5
    torch.testing.assert_close(statistics.restore(x0), latents, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", vectors.cases("transformers/repae/losses"), ids=lambda path: path.stem)
def test_the_options_of_a_batch_norm(path):
    """What the documentation says to give: the running mean, and the root of running variance plus epsilon."""
    _, arrays = load(path)
    norm = nn.BatchNorm2d(4, eps=EPS, momentum=MOMENTUM, affine=False)
    norm.running_mean.copy_(arrays["init_bias"])
    norm.running_var.copy_(arrays["init_scale"] ** -2)
    norm(arrays["latents"])
    for name in ("running_mean", "running_var"):
        assert vectors.relative_error(getattr(norm, name), arrays[f"train:full:linear:{name}"]) < 1e-6
    std = (norm.running_var + EPS).sqrt()
    statistics = ChannelStatistics(norm.running_mean.tolist(), std.tolist(), final_std=1.0)
    torch.testing.assert_close(statistics.normalise(arrays["latents"]), norm.eval()(arrays["latents"]))
