"""Samplers against the exact denoiser of a Gaussian: order of convergence, distribution, edges."""

import math

import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.training.noise.processes import LinearProcess
from elucid.training.noise.schedules import Karras, rho_levels
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.registry.components import find, make
from elucid.training.registry.names import PROCESSES, SAMPLERS, SCHEDULES
from elucid.training.samplers.ablation import SCALINGS, AblationSampler
from elucid.training.samplers.ddim import DDIMSampler
from elucid.training.samplers.ddpm import DDPMSampler
from elucid.training.samplers.dpmpp2m import DPMpp2MSampler
from elucid.training.samplers.edm import EDMSampler
from elucid.training.samplers.sde import SDESampler
from tests.oracles import GaussianDenoiser

FIXED = [name for name in SAMPLERS if make(name, "sampler").evaluations(1) is not None]  # not the adaptive ones
SOLVERS = [name for name in SAMPLERS if name != "consistency"]  # which takes each estimate for a sample
GAUSSIAN = GaussianDenoiser(mean=0.3, std=0.5)


def no_noise(x):
    raise AssertionError("a sampler without noise drew some")


def bound():
    """The Gaussian, as samplers call it, counting its evaluations."""
    denoise = BoundDenoiser(GAUSSIAN)
    denoise.calls = 0
    denoise.register_forward_hook(lambda *_: setattr(denoise, "calls", denoise.calls + 1))
    return denoise


def ablation(process="linear", **options):
    return make({"name": "ablation", "process": process, **options}, "sampler")


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


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("process", PROCESSES)
@pytest.mark.parametrize("solver, alpha", [("euler", 1.0), ("heun", 1.0), ("heun", 0.7)])
def test_order_of_the_ablation_sampler(solver, alpha, process, scaling):
    sampler = ablation(process, solver=solver, alpha=alpha, scaling=scaling)
    assert observed_order(sampler) == pytest.approx(sampler.order, abs=0.25)


def mean_error(sampler, num_steps):
    """Error of the mean of a sampler of an SDE, whose noise is set to zero: the mean of a linear SDE is then exact."""
    x = torch.full((1, 1, 4, 4), 20.0, dtype=torch.float64)
    with torch.no_grad():
        end = sampler(BoundDenoiser(GAUSSIAN), x, rho_levels(num_steps + 1, 0.05, 5.0), torch.zeros_like)
    mean, std = GAUSSIAN.mean, GAUSSIAN.std
    return float((end - (mean + (x - mean) * (std**2 + 0.05**2) / (std**2 + 5.0**2))).norm())


def variance_error(sampler, num_steps):
    """Error of the variance of a linear stochastic sampler: the squared responses to each of its draws, summed."""
    levels, draws = rho_levels(num_steps + 1, 0.05, 5.0), iter(range(num_steps))
    # Image k has unit noise in step k alone; the last but one starts away from the others, the last has no noise.
    x = torch.zeros(num_steps + 2, 1, 1, 1, dtype=torch.float64)
    x[num_steps] = 1

    def noise(x):
        unit = torch.zeros_like(x)
        unit[next(draws)] = 1
        return unit

    with torch.no_grad():
        end = sampler(BoundDenoiser(GAUSSIAN), x, levels, noise)
    response = (end - end[-1:]).flatten() ** 2
    variance = response[:num_steps].sum() + response[num_steps] * (GAUSSIAN.std**2 + 5.0**2)
    return abs(float(variance) - (GAUSSIAN.std**2 + 0.05**2))


@pytest.mark.parametrize("name", [name for name in FIXED if name in SOLVERS])
def test_every_sampler_has_the_order_that_it_declares(name):
    sampler = make(name, "sampler")
    if name == "sde":  # stochastic ones are compared by their distribution
        observed = math.log2(mean_error(sampler, 256) / mean_error(sampler, 512))
    elif name in ("ddpm", "flow_sde"):  # the mean of the one is exact, that of the other has no simple form
        observed = math.log2(variance_error(sampler, 256) / variance_error(sampler, 512))
    else:
        observed = observed_order(sampler)
    assert observed == pytest.approx(sampler.order, abs=0.15)


@pytest.mark.parametrize("name", FIXED)
@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_every_sampler_evaluates_as_often_as_it_declares_and_calls_back_once_per_step(name, num_steps):
    sampler, denoise, seen = make(name, "sampler"), bound(), []

    def callback(x, sigma, x0):
        assert x.shape == x0.shape == (2, 1, 4, 4) and float(sigma.reshape(-1)[0]) > 0
        assert torch.allclose(x0, GAUSSIAN(x, sigma).x0)
        seen.append(float(sigma.reshape(-1)[0]))

    sigmas = Karras(num_steps)(denoise)
    x = torch.randn(2, 1, 4, 4).double() * 80
    with torch.no_grad():
        sampler(denoise, x, sigmas, torch.randn_like, callback)
    assert denoise.calls == sampler.evaluations(num_steps)
    assert seen == pytest.approx(sigmas[:-1].tolist())


def test_the_ablation_sampler_contains_edms():
    x, options = torch.randn(2, 1, 4, 4).double() * 80, {"S_churn": 3.0, "S_noise": 1.1}
    noise = torch.randn(2, 1, 4, 4).double()
    ends = []
    for sampler in (EDMSampler(**options), ablation(**options)):
        denoise = BoundDenoiser(GAUSSIAN)
        ends.append(sampler(denoise, x, Karras(7)(denoise), lambda x: noise).detach())
    assert torch.allclose(*ends, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("sampler", "schedule"),
    [
        (EDMSampler(), {"name": "karras", "num_steps": 40}),
        (EDMSampler(S_churn=20.0, S_min=0.05, S_max=50.0), {"name": "karras", "num_steps": 100}),
        (ablation("vp", S_churn=20.0, scaling="vp"), {"name": "vp", "num_steps": 40}),
        (ablation("ve", S_churn=20.0), {"name": "geometric", "num_steps": 40}),
        (SDESampler(), {"name": "karras", "num_steps": 200}),
        (DPMpp2MSampler(), {"name": "karras", "num_steps": 40}),
        (DDPMSampler(), {"name": "respaced", "num_steps": 250}),
        (DDPMSampler(variance="large"), {"name": "respaced", "num_steps": 250}),
        (DDIMSampler(), {"name": "respaced", "num_steps": 100}),
        (DDIMSampler(eta=1.0), {"name": "respaced", "num_steps": 250}),
    ],
    ids=lambda part: type(part).__name__,
)
def test_samples_are_distributed_like_the_data(sampler, schedule):
    generator = torch.Generator().manual_seed(0)

    def noise(x):
        return torch.randn(x.shape, generator=generator, dtype=x.dtype)

    denoise, schedule = BoundDenoiser(GAUSSIAN), make(schedule, "schedule")
    sigmas = schedule(denoise)
    with torch.no_grad():
        x = noise(torch.zeros(1000, 1, 4, 4).double()) * sigmas[0]
        x = sampler.for_schedule(schedule, denoise)(denoise, x, sigmas, noise)
    # Standard errors of 16,000 numbers: 0.004 and 0.0028.
    assert float(x.mean()) == pytest.approx(GAUSSIAN.mean, abs=0.016)
    assert float(x.std()) == pytest.approx(GAUSSIAN.std, abs=0.02)


@pytest.mark.parametrize("name", FIXED)
def test_one_step_is_one_denoising(name):
    sampler, denoise = make(name, "sampler"), BoundDenoiser(GAUSSIAN)
    sigmas = Karras(1)(denoise)
    assert sigmas.tolist() == [80.0, 0.0]
    x = torch.randn(2, 1, 4, 4).double() * 80
    found, wanted = sampler(denoise, x, sigmas, torch.randn_like), denoise(x, sigmas[0]).x0
    single = found.dtype == torch.float32  # x is 80 times the sample
    assert torch.allclose(found.double(), wanted, rtol=1e-12, atol=80 * 2**-22 if single else 1e-8)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_image_may_have_its_own_levels(name):
    sampler = make(name, "sampler")
    denoise = BoundDenoiser(GAUSSIAN)
    x, z = torch.randn(2, 1, 4, 4).double() * 5, torch.randn(2, 1, 4, 4).double()
    levels = [rho_levels(9, 0.1, 5.0), rho_levels(9, 0.3, 4.0)]
    together = sampler(denoise, x, torch.stack(levels, dim=1), lambda x: z)
    for i, own in enumerate(levels):
        alone = sampler(denoise, x[i : i + 1], own, lambda x, i=i: z[i : i + 1])
        assert torch.allclose(together[i : i + 1], alone, rtol=1e-12)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_level_visited_twice_makes_no_step(name):
    sampler = make(name, "sampler")
    x, z = torch.randn(2, 1, 4, 4).double() * 5, torch.zeros(2, 1, 4, 4).double()
    levels = rho_levels(9, 0.1, 5.0)
    ends = [sampler(BoundDenoiser(GAUSSIAN), x, each, lambda x: z) for each in (levels, levels[[0, 0, *range(1, 9)]])]
    assert torch.allclose(*ends, rtol=1e-9)


@pytest.mark.parametrize(
    "name", [name for name in SCHEDULES if name not in ("flow", "chosen", "halvings", "flow_map")]
)  # which have no range
def test_levels_fall_from_one_end_of_the_range_to_the_other(name):
    schedule = make({"name": name, "num_steps": 12}, "schedule")
    low, high = schedule.default_range
    levels = schedule(BoundDenoiser(GAUSSIAN))
    assert levels.shape == (13,) and bool((levels.diff() < 0).all()) and float(levels[-1]) == 0
    end = 0.05 if name == "iddpm" else 1e-9  # its ends are the nearest of the 1000 levels inside
    assert float(levels[0]) == pytest.approx(high, rel=end)
    assert low * (1 - 1e-9) <= float(levels[-2]) <= low * 5


@pytest.mark.parametrize("name", PROCESSES)
def test_processes(name):
    process = find("process", name).through(0.01, 50.0)
    t = process.time(torch.linspace(0.02, 40.0, 20, dtype=torch.float64)).requires_grad_()
    sigma = process.sigma(t)
    assert torch.allclose(process.time(sigma), t, rtol=1e-9)
    (slope,) = torch.autograd.grad(sigma.sum(), t)
    assert torch.allclose(process.derivative(t), slope, rtol=1e-9)
    assert float(process.time(torch.tensor(0.0))) == 0.0


def test_the_denoisers_range_limits_the_schedules():
    denoiser = GaussianDenoiser()
    denoiser.sigma_min, denoiser.sigma_max = 0.5, 20.0
    sigmas = Karras(5)(BoundDenoiser(denoiser))
    assert (float(sigmas[0]), float(sigmas[-2])) == pytest.approx((20.0, 0.5))
    with pytest.raises(UserError, match="`sigma_min`"):
        Karras(sigma_min=30.0)(BoundDenoiser(denoiser))


@pytest.mark.parametrize(
    "kind, options, named",
    [
        (Karras, {"num_steps": 0}, "`steps`"),
        (Karras, {"rho": 0.0}, "`rho`"),
        (Karras, {"sigma_min": 0.0}, "`sigma_min`"),
        (EDMSampler, {"S_churn": -1.0}, "`S_churn`"),
        (AblationSampler, {"process": LinearProcess(), "solver": "rk4"}, "euler, heun"),
        (AblationSampler, {"process": LinearProcess(), "alpha": 0.0}, "alpha"),
    ],
)
def test_bad_options_are_named(kind, options, named):
    with pytest.raises(UserError, match=named):
        kind(**options)
