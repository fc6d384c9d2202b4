"""The variational bound against the exact likelihood of a Gaussian mixture, in expectation by quadrature."""

import math

import numpy as np
import torch

from elucid.training.losses.variational import prior_bits
from elucid.training.noise.discrete import betas, levels_of
from elucid.training.noise.gaussian_steps import GaussianSteps
from tests.oracles import MixtureDenoiser

MIXTURE = MixtureDenoiser(shape=(1, 1, 1))
VALUES = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).reshape(-1, 1, 1, 1)


def probabilities():
    """P of each 8-bit value when samples of the mixture are rounded to it."""
    edges = torch.cat([VALUES.flatten() - 1 / 255, torch.tensor([math.inf], dtype=torch.float64)])
    edges[0] = -math.inf
    z = (edges[:, None] - MIXTURE.means.double()) / MIXTURE.stds.double()
    cumulative = (0.5 * (1 + torch.erf(z / math.sqrt(2))) * MIXTURE.weights.double()).sum(1)
    return cumulative.diff()


def posterior(x, sigma):
    """Exact mean and variance of the 8-bit value given x: the mixture's denoiser, but for its rounded samples."""
    values = VALUES.flatten()
    share = (probabilities().log() - 0.5 * ((x.reshape(-1, 1) - values) / sigma) ** 2).softmax(1)
    mean = share @ values
    return mean.reshape(x.shape), (share @ values**2 - mean**2).clamp_min(1e-12).reshape(x.shape)


def expected_bound(num_steps, variance):
    """E of the bound in bits: over all 256 values, and over the noise by Gauss-Hermite quadrature."""
    levels = levels_of(betas("cosine", num_steps))
    steps, weights = GaussianSteps(levels), probabilities()
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(24)
    nodes, node_weights = torch.from_numpy(nodes), torch.from_numpy(node_weights / math.sqrt(2 * math.pi))
    images = VALUES.repeat_interleave(len(nodes), 0)
    noise = nodes.repeat(len(VALUES)).reshape(-1, 1, 1, 1)
    mass = (weights[:, None] * node_weights).flatten()
    total = (mass * prior_bits(images, float(levels[0])).flatten()).sum()
    for index in range(num_steps):
        sigma, following = steps.sigma[index], steps.sigma_next[index]
        x = images + sigma * noise
        x0, spread = posterior(x, sigma)
        if variance == "exact":
            below = steps.log_small[index].exp() if following > 0 else 0.0
            log_variance = (below + (1 - (following / sigma) ** 2) ** 2 * spread).log()
        else:
            log_variance = steps.log_variance(index, variance)
        at = torch.full((len(images),), index)
        bits = steps.bits(images, x, x0, log_variance + torch.zeros_like(x), at).flatten()
        total = total + (mass * bits).sum()
    return float(total)


def exact_bits():
    weights = probabilities()
    return -float((weights * weights.clamp_min(1e-300).log2()).sum())


def test_the_bound_falls_with_more_steps_towards_the_exact_likelihood():
    exact = exact_bits()
    gaps = [expected_bound(num_steps, "exact") - exact for num_steps in (5, 20, 80)]
    assert all(0 < later < earlier for earlier, later in zip(gaps, gaps[1:], strict=False)), gaps
    assert gaps[-1] < 0.02, gaps


def test_the_true_variance_beats_both_fixed_ones_at_few_steps():
    bounds = {variance: expected_bound(10, variance) for variance in ("small", "large", "exact")}
    assert exact_bits() < bounds["exact"] < min(bounds["small"], bounds["large"]), bounds
