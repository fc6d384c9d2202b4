"""Samplers against the exact denoiser of a Gaussian: order of convergence, distribution, edges."""

import math

import pytest
import torch

from elucid.dnnlib.config import construct, lookup
from elucid.dnnlib.errors import UserError
from elucid.training.noise.schedules import CURVES, DISCRETIZATIONS, SIGMA_RANGES, rho_levels
from elucid.training.registry.names import SAMPLERS
from elucid.training.samplers.ablation import CHOICES, AblationSampler
from elucid.training.samplers.base import BoundDenoiser
from elucid.training.samplers.dpmpp2m import DPMpp2MSampler
from elucid.training.samplers.edm import EDMSampler
from elucid.training.samplers.sde import SDESampler
from tests.oracles import GaussianDenoiser

GAUSSIAN = GaussianDenoiser(mean=0.3, std=0.5)


def no_noise(x):
    raise AssertionError("a sampler without noise drew some")


def exact(x, sigma, sigma_next):
    """Where the probability flow of the Gaussian takes x."""
    std, mean = GAUSSIAN.std, GAUSSIAN.mean
    return mean + (x - mean) * math.sqrt((std**2 + sigma_next**2) / (std**2 + sigma**2))


def observed_order(sampler):
    """Slope of log error against log step size, between noise levels that hold no singular step to 0."""
    x = torch.linspace(-3, 3, 16, dtype=torch.float64).reshape(1, 1, 4, 4) * 5.0
    errors = []
    for num_steps in (64, 128):
        levels = rho_levels(num_steps + 1, 0.05, 5.0)
        with torch.no_grad():
            end = sampler(BoundDenoiser(GAUSSIAN), x, levels, no_noise)
        errors.append(float((end - exact(x, 5.0, 0.05)).norm()))
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize("scaling", CHOICES["scaling"])
@pytest.mark.parametrize("schedule", CHOICES["schedule"])
@pytest.mark.parametrize("solver, alpha, order", [("euler", 1.0, 1), ("heun", 1.0, 2), ("heun", 0.7, 2)])
def test_order_of_the_ablation_sampler(solver, alpha, order, schedule, scaling):
    sampler = AblationSampler(solver=solver, alpha=alpha, schedule=schedule, scaling=scaling)
    assert observed_order(sampler) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("sampler", [EDMSampler(), DPMpp2MSampler()], ids=lambda sampler: type(sampler).__name__)
def test_order_2(sampler):
    assert observed_order(sampler) == pytest.approx(2, abs=0.15)


def test_the_ablation_sampler_contains_edms():
    x, options = torch.randn(2, 1, 4, 4).double() * 80, {"num_steps": 7, "S_churn": 3.0, "S_noise": 1.1}
    noise = torch.randn(2, 1, 4, 4).double()
    ends = []
    for sampler in (EDMSampler(**options), AblationSampler(**options)):
        denoise = BoundDenoiser(GAUSSIAN)
        ends.append(sampler(denoise, x, sampler.sigmas(denoise), lambda x: noise).detach())
    assert torch.allclose(*ends, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "sampler",
    [
        EDMSampler(num_steps=40),
        EDMSampler(num_steps=100, S_churn=20.0, S_min=0.05, S_max=50.0),
        AblationSampler(num_steps=40, S_churn=20.0, schedule="vp", scaling="vp", discretization="vp"),
        AblationSampler(num_steps=40, S_churn=20.0, schedule="ve", discretization="ve"),
        SDESampler(num_steps=200),
        DPMpp2MSampler(num_steps=40),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_samples_are_distributed_like_the_data(sampler):
    generator = torch.Generator().manual_seed(0)

    def noise(x):
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    denoise = BoundDenoiser(GAUSSIAN)
    sigmas = sampler.sigmas(denoise)
    with torch.no_grad():
        x = sampler(denoise, noise(torch.zeros(1000, 1, 4, 4).double()) * sigmas[0], sigmas, noise)
    # Standard errors of 16,000 numbers: 0.004 and 0.0028.
    assert float(x.mean()) == pytest.approx(GAUSSIAN.mean, abs=0.016)
    assert float(x.std()) == pytest.approx(GAUSSIAN.std, abs=0.02)


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_is_one_denoising(name):
    sampler = construct(lookup(SAMPLERS, name, "sampler"), {"num_steps": 1})
    denoise = BoundDenoiser(GAUSSIAN)
    sigmas = sampler.sigmas(denoise)
    assert sigmas.tolist() == [80.0, 0.0]
    x = torch.randn(2, 1, 4, 4).double() * 80
    assert torch.allclose(sampler(denoise, x, sigmas, torch.randn_like), denoise(x, sigmas[0]), rtol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_image_may_have_its_own_levels(name):
    sampler = construct(lookup(SAMPLERS, name, "sampler"), {})
    denoise = BoundDenoiser(GAUSSIAN)
    x, z = torch.randn(2, 1, 4, 4).double() * 5, torch.randn(2, 1, 4, 4).double()
    levels = [rho_levels(9, 0.1, 5.0), rho_levels(9, 0.3, 4.0)]
    together = sampler(denoise, x, torch.stack(levels, dim=1), lambda x: z)
    for i, own in enumerate(levels):
        alone = sampler(denoise, x[i : i + 1], own, lambda x, i=i: z[i : i + 1])
        assert torch.allclose(together[i : i + 1], alone, rtol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_level_visited_twice_makes_no_step(name):
    sampler = construct(lookup(SAMPLERS, name, "sampler"), {})
    x, z = torch.randn(2, 1, 4, 4).double() * 5, torch.zeros(2, 1, 4, 4).double()
    levels = rho_levels(9, 0.1, 5.0)
    ends = [sampler(BoundDenoiser(GAUSSIAN), x, each, lambda x: z) for each in (levels, levels[[0, 0, *range(1, 9)]])]
    assert torch.allclose(*ends, rtol=1e-9)


@pytest.mark.parametrize("name", DISCRETIZATIONS)
def test_levels_fall_from_one_end_of_the_range_to_the_other(name):
    low, high = SIGMA_RANGES[name]
    levels = DISCRETIZATIONS[name](12, low, high)
    assert levels.shape == (12,) and bool((levels.diff() < 0).all())
    end = 0.05 if name == "iddpm" else 1e-9  # its ends are the nearest of the 1000 levels inside
    assert float(levels[0]) == pytest.approx(high, rel=end)
    assert low * (1 - 1e-9) <= float(levels[-1]) <= low * 5


@pytest.mark.parametrize("name", CURVES)
def test_curves(name):
    curve = CURVES[name].through(0.01, 50.0)
    t = curve.time(torch.linspace(0.02, 40.0, 20, dtype=torch.float64)).requires_grad_()
    sigma = curve.sigma(t)
    assert torch.allclose(curve.time(sigma), t, rtol=1e-9)
    (slope,) = torch.autograd.grad(sigma.sum(), t)
    assert torch.allclose(curve.derivative(t), slope, rtol=1e-9)
    assert float(curve.time(torch.tensor(0.0))) == 0.0


def test_the_denoisers_range_limits_the_samplers():
    denoiser = GaussianDenoiser()
    denoiser.sigma_min, denoiser.sigma_max = 0.5, 20.0
    sigmas = EDMSampler(num_steps=5).sigmas(BoundDenoiser(denoiser))
    assert (float(sigmas[0]), float(sigmas[-2])) == pytest.approx((20.0, 0.5))
    with pytest.raises(UserError, match="--sigma_min"):
        EDMSampler(sigma_min=30.0).sigmas(BoundDenoiser(denoiser))


@pytest.mark.parametrize(
    "kind, options, named",
    [
        (EDMSampler, {"num_steps": 0}, "--steps"),
        (EDMSampler, {"rho": 0.0}, "--rho"),
        (EDMSampler, {"sigma_min": 0.0}, "--sigma_min"),
        (EDMSampler, {"S_churn": -1.0}, "--S_churn"),
        (AblationSampler, {"solver": "rk4"}, "euler, heun"),
        (AblationSampler, {"alpha": 0.0}, "alpha"),
    ],
)
def test_bad_options_are_named(kind, options, named):
    with pytest.raises(UserError, match=named):
        kind(**options)
