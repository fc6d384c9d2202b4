"""On Gaussian images with known posterior: which methods are exact, at each noise level and through samplers."""

import pytest
import torch

from benchmarks.inverse_gaussian import AFFINE, SHAPE, SOLVED, Case, ExactPosterior, errors, moments, prior
from elucid.training.inverse.operators.base import LinearOperator
from elucid.training.inverse.operators.blur import Blur
from elucid.training.inverse.operators.identity import Identity
from elucid.training.inverse.operators.superres import SuperResolution
from elucid.training.noise.schedules import Karras
from elucid.training.samplers.edm import EDMSampler
from elucid.training.samplers.sde import SDESampler
from elucid.training.sampling.inverse.posterior import posterior_denoiser
from tests.oracles import CovarianceDenoiser

TMPD = f"tmpd,{SOLVED}"
LEVELS = torch.tensor([0.003, 0.05, 0.3, 1.0, 4.0, 20.0, 80.0, 900.0], dtype=torch.float64)


class Columns(LinearOperator):
    """Some columns of the image."""

    def __call__(self, images):
        return images[..., 1:3]

    def adjoint(self, y):
        return torch.nn.functional.pad(y, (1, 1))


class Sums(LinearOperator):
    """Sums of rows and of channels, [B,12]: no image any more, and of less than full rank."""

    def __call__(self, images):
        return torch.cat([images.sum(3).flatten(1), images.sum((1, 3))], dim=1)

    def adjoint(self, y):
        images = y[:, :8].reshape(-1, 2, 4, 1) + y[:, 8:].reshape(-1, 1, 4, 1)
        return images.expand(-1, -1, -1, 4)


OPERATORS = {
    "identity": Identity(),
    "columns": Columns(),
    "superres": SuperResolution(2),
    "blur": Blur(1.0),
    "blur, zero": Blur(1.0, "zero"),
    "sums": Sums(),
}


def same_levels(case):
    """Noisy images, one for each measurement, and their levels."""
    x = case.prior.data(len(LEVELS), torch.Generator().manual_seed(2))
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return x + LEVELS.reshape(-1, 1, 1, 1) * noise


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("std", [0.1, 10.0])
def test_tmpd_is_the_denoiser_of_the_posterior(name, std):
    """For each operator, at each noise level, each sample with a measurement of its own."""
    case = Case.drawn(OPERATORS[name], std, len(LEVELS))
    x, cond = same_levels(case), {"measurement": case.measurements}
    with torch.no_grad():
        found = case.denoiser("tmpd,tolerance=1e-12,iterations=400")(x, LEVELS, cond).x0
        assert torch.allclose(found, ExactPosterior(case)(x, LEVELS, cond).x0, atol=1e-6)
        assert not torch.allclose(found, case.prior(x, LEVELS).x0, atol=1e-2)


def test_with_exact_measurements_what_is_measured_is_met():
    case = Case.drawn(OPERATORS["superres"], 0.0, len(LEVELS))
    x, cond = same_levels(case), {"measurement": case.measurements}
    for method in ("tmpd,tolerance=1e-12,iterations=400", "diffpir,tolerance=1e-12", "replacement,tolerance=1e-12"):
        denoiser = case.denoiser(method)
        with torch.no_grad():
            x0 = denoiser(x, LEVELS, cond).x0
        scale, offset = (one.double().reshape(-1, 1, 1) for one in AFFINE)
        assert torch.allclose(case.operator(scale * x0 + offset), case.measurements, atol=1e-6), method


@pytest.mark.parametrize("name", OPERATORS)
def test_pseudoinverse_guidance_is_exact_where_its_covariance_is(name):
    """Data ~ N(mean, d^2) with d = `data_std`; of other data x0 given x has another covariance."""
    case = Case.drawn(OPERATORS[name], 10.0, len(LEVELS))
    x, cond = same_levels(case), {"measurement": case.measurements}
    method = "pigdm,data_std=0.3,tolerance=1e-12,iterations=400"
    correlated = (case.denoiser(method)(x, LEVELS, cond).x0 - ExactPosterior(case)(x, LEVELS, cond).x0).abs().max()
    case.prior = CovarianceDenoiser(case.prior.mean, 0.09 * torch.eye(32))
    white = case.denoiser(method)(x, LEVELS, cond).x0 - ExactPosterior(case)(x, LEVELS, cond).x0
    assert float(white.abs().max()) < 1e-6 < 1e-2 < float(correlated)


def test_samples_of_heun_are_of_the_posterior():
    """Mean and covariance converge with the order of the sampler, 2, and 90 % intervals have the truth as often."""
    case = Case.drawn(OPERATORS["superres"], 10.0, 8)
    denoiser = case.denoiser(TMPD)
    # From where noise around 0 is as good a start as the data with noise, whose mean is not 0.
    levels = [Karras(steps, 0.02, 1000.0)(denoiser) for steps in (32, 64)]
    runs = [errors(case, *moments(denoiser, case, EDMSampler(), sigmas, 0)) for sigmas in levels]
    (_, coarse, _), (mean, fine, coverage) = runs
    assert mean < 0.003 and fine < 0.02 and coarse / fine > 3.5
    assert 0.88 < coverage < 0.92


@pytest.mark.parametrize("sampler", [EDMSampler(S_churn=8.0), SDESampler()], ids=["churn", "sde"])
def test_samples_with_noise_are_those_of_the_exact_denoiser(sampler):
    """What error is left is that of the sampler in so few steps, which the exact denoiser has as well."""
    case = Case.drawn(OPERATORS["superres"], 10.0, 8)
    draws = 24 if isinstance(sampler, EDMSampler) else 23
    found = []
    for method in (TMPD, None):
        denoiser = case.denoiser(method)
        found.append(moments(denoiser, case, sampler, Karras(24, 0.01)(denoiser), draws))
    for ours, exact in zip(*found, strict=True):
        assert torch.allclose(ours, exact, atol=1e-5)
    mean, _, coverage = errors(case, *found[0])
    assert mean < 0.01 and 0.85 < coverage < 0.95


def test_other_methods_are_biased():
    """Which is why the table in the documentation has figures; each misses mean or covariance by more than steps do."""
    case = Case.drawn(OPERATORS["columns"], 10.0, 8)
    for method in ("pigdm", "diffpir", "replacement"):
        denoiser = case.denoiser(method)
        mean, covariance, _ = errors(case, *moments(denoiser, case, EDMSampler(), Karras(40, 0.01)(denoiser), 0))
        assert max(mean, covariance) > 0.1, method


def test_the_noise_of_counts_is_in_the_posterior():
    """With Poisson noise it is the Gaussian posterior of value and variance of each count."""
    images = CovarianceDenoiser(prior().mean, 0.05 * prior().covariance)
    affine = (torch.tensor([20.0, 30.0]), torch.tensor([60.0, 90.0]))
    scale, offset = (one.double().reshape(-1, 1, 1) for one in affine)
    torch.manual_seed(0)
    counts = torch.poisson(0.5 * (scale * images.data(1) + offset))
    y = counts / 0.5
    wrapped = posterior_denoiser(images, affine, "identity", y, "poisson:0.5", "tmpd,tolerance=1e-12,iterations=300")
    value, variance = ((counts + counts.clamp(max=1)) / 0.5).flatten(), ((counts + 1) / 0.25).flatten()
    matrix = scale.expand(SHAPE).flatten().diag()
    gain = images.covariance @ matrix @ torch.linalg.inv(matrix @ images.covariance @ matrix + variance.diag())
    mean = images.mean.flatten() + gain @ (value - (scale * images.mean + offset).flatten())
    with torch.no_grad():  # noise so large that x says nothing
        x0 = wrapped(torch.zeros(1, *SHAPE, dtype=torch.float64), 1e5).x0
    assert torch.allclose(x0.flatten(), mean, atol=1e-6)
