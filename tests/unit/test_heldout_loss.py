"""Held-out against training loss: exact for Gaussians, seen where a model knows its images by heart."""

import math

import numpy as np
import pytest
import torch

from elucid.evaluation.heldout import gap, summarise
from elucid.training.losses.by_level import (
    errors_of,
    loss_weights,
    noise_of,
    squared_errors,
    training_levels,
    undisturbed,
)
from elucid.training.noise.distributions import LogNormal
from elucid.training.preconds.iddpm import iDDPMPrecond
from elucid.training.registry.components import make
from elucid.training.types import NetSpec, Prediction
from tests.oracles import GaussianDenoiser

SIGMAS = torch.tensor([0.1, 0.4, 1.0], dtype=torch.float64)


class ByHeart(GaussianDenoiser):
    """Exact for data that is one of `known` [N,C,H,W]: a model that has learned its training images by heart."""

    def __init__(self, known):
        super().__init__()
        self.known = known

    def forward(self, x, sigma, cond=None):
        far = ((x[:, None] - self.known) ** 2).flatten(2).sum(2)
        share = (-far / (2 * torch.as_tensor(sigma).reshape(-1, 1) ** 2)).softmax(1)
        return Prediction(torch.einsum("bn,nchw->bchw", share, self.known))


def errors(denoiser, images, seed=0):
    return squared_errors(denoiser, images, {}, SIGMAS, list(range(seed, seed + len(images)))).numpy()


def test_the_error_of_an_exact_denoiser():
    """E |D - y|^2 = sigma^2 s^2 / (sigma^2 + s^2) = c_out^2 per element of data N(m, s^2): the weighted loss is 1."""
    torch.manual_seed(0)
    denoiser = GaussianDenoiser()
    found = errors(denoiser, denoiser.data(2000))
    weights = loss_weights(denoiser, SIGMAS).numpy()
    np.testing.assert_allclose(found.mean(0), (1 / (1 / SIGMAS**2 + 1 / 0.25)).numpy(), rtol=0.03)
    np.testing.assert_allclose(weights * found.mean(0), 1, rtol=0.03)


def test_the_noise_of_an_image_depends_on_its_seed_only():
    denoiser = GaussianDenoiser()
    images = denoiser.data(9)
    whole = errors(denoiser, images)
    np.testing.assert_allclose(np.concatenate([errors(denoiser, images[:4]), errors(denoiser, images[4:], 4)]), whole)
    assert not np.allclose(errors(denoiser, images, seed=5), whole)


class NoisyEncoder:
    """Latents that are random, as those of a VAE."""

    def encode(self, raw):
        return raw + torch.randn_like(raw)


class Images:
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def image(self, index):
        return self.images[index].numpy()

    def label(self, index):
        return np.zeros(0, np.float32)


def test_latents_depend_on_the_image_only():
    """Not on the batch, the order or the state of the random generators."""
    denoiser = GaussianDenoiser()
    denoiser.spec = denoiser.spec.replace(latent=True)
    found = []
    for batch, indices in ((1, [0, 1, 2, 3, 4]), (3, [0, 1, 2, 3, 4]), (2, [0, 1])):
        torch.manual_seed(batch)
        how = {"seed": 5, "batch": batch, "device": "cpu", "step": lambda count: None}
        found.append(errors_of(denoiser, NoisyEncoder(), Images(torch.zeros(5, 1, 4, 4)), indices, SIGMAS, **how))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    np.testing.assert_allclose(found[0][:2], found[2], rtol=1e-6)
    assert len(np.unique(found[0])) == found[0].size


def test_a_model_that_knows_its_images_by_heart_is_seen():
    torch.manual_seed(1)
    data = GaussianDenoiser()
    train, held_out = data.data(100), data.data(100)
    weights = loss_weights(data, SIGMAS).numpy()
    for denoiser, overfits in ((ByHeart(train), True), (data, False)):
        result = summarise(SIGMAS.numpy(), weights, errors(denoiser, train), errors(denoiser, held_out))
        assert result.about["overfits"] is overfits
        assert result.lines[0].startswith("overfitting") is overfits
        assert result.interval[0] < result.value < result.interval[1] and (result.interval[0] > 0) == overfits
        table = result.tables[0]
        assert len(table.rows) == 4 and table.rows[-1][-1] == result.about["gap_sigmas"]
        assert [one.name for one in result.curves[0].series] == ["training", "held-out"] and result.curves[0].log_x


def test_false_alarms_are_rare_and_intervals_hold_the_truth():
    """400 pairs of equal sets with skewed losses that are correlated between levels."""
    random, alarms, held = np.random.default_rng(0), 0, 0
    for _ in range(400):
        sets = [random.gamma(2, size=(150, 1)) + random.gamma(1, size=(150, 5)) for _ in range(2)]
        found = gap(*sets)
        alarms += found.overfits
        held += abs(found.mean) <= 1.96 * found.error
    assert alarms <= 12 and 0.92 <= held / 400 <= 0.98


def test_levels_are_quantiles_of_those_in_training():
    levels = training_levels(LogNormal(-0.4, 1.0), GaussianDenoiser(), 4)
    normal = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(4) + 0.5) / 4)
    torch.testing.assert_close(levels.log(), (normal - 0.4).double(), rtol=0, atol=0.08)
    discrete = iDDPMPrecond(torch.nn.Identity(), NetSpec((4, 4), 1, out_channels=2), M=10)
    for name, count in (("levels", 5), ("levels", 30), ("loss_aware", 5)):
        found = training_levels(make({"name": name}, "noise"), discrete, count)
        assert len(found) == min(count, 10) and (found.diff() > 0).all()
        assert torch.isin(found.float(), discrete.levels.float()).all()


def test_the_distribution_of_a_wrapped_loss():
    noise = noise_of(
        make({"name": "patch", "base": {"name": "edm", "noise": {"name": "lognormal", "P_mean": 2}}}, "loss")
    )
    assert noise.P_mean == 2
    assert isinstance(noise_of(object()), LogNormal)


def test_random_streams_are_undisturbed():
    torch.manual_seed(3)
    np.random.seed(3)
    with undisturbed(torch.device("cpu")):
        first = torch.rand(3), np.random.rand()
        torch.manual_seed(9)
    assert torch.equal(torch.rand(3), first[0]) and np.random.rand() == first[1]
    with pytest.raises(ZeroDivisionError), undisturbed(torch.device("cpu")):
        torch.manual_seed(0)
        math.sqrt(1 / 0)
    assert torch.initial_seed() == 3
