"""The discrete process: its limits, learned variances, loss-aware levels, thresholding, temperature, inversion."""

import math

import pytest
import torch
from torch import nn

from elucid.dnnlib.errors import UserError
from elucid.training.guidance.clipping import Clipping, clipped
from elucid.training.losses.variational import HybridLoss
from elucid.training.noise.discrete import betas, levels_of
from elucid.training.noise.distributions import DiscreteLevels
from elucid.training.noise.gaussian_steps import GaussianSteps
from elucid.training.noise.loss_aware import LossAwareLevels
from elucid.training.noise.respacing import respaced
from elucid.training.noise.schedules import Respaced, rho_levels
from elucid.training.preconds.ddpm import DDPMPrecond
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.registry.components import make
from elucid.training.samplers.ddim import DDIMSampler
from elucid.training.samplers.ddpm import DDPMSampler
from elucid.training.types import Batch, NetSpec, Prediction
from tests.oracles import GaussianDenoiser, step_at

GAUSSIAN = GaussianDenoiser()


class Scaled(nn.Module):
    """A network with one weight for the noise and one for the variance."""

    def __init__(self, channels=2):
        super().__init__()
        self.channels = channels
        self.noise, self.variance = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.tensor(0.1))

    def forward(self, x, c_noise, cond):
        noise = self.noise * x
        return torch.cat([noise, self.variance + 0 * x], dim=1) if self.channels == 2 else noise


def ddpm(learned=False, **options):
    channels = 2 if learned else 1
    return DDPMPrecond(Scaled(channels), NetSpec((4, 4), 1, out_channels=channels), **options)


@pytest.mark.parametrize("schedule, steps", [("linear", 10), ("linear", 20), ("sine", 1000), ("cosine", 0)])
def test_betas_outside_0_to_1_are_refused(schedule, steps):
    with pytest.raises(UserError, match="beta_schedule|diffusion_steps"):
        betas(schedule, steps)


@pytest.mark.parametrize("sections", ["0", "1001", "ddim600", "ddim0", "a", "10,,20", "600,1", "linspace2000", "-5"])
def test_respacing_that_cannot_be_made_is_refused(sections):
    with pytest.raises(UserError, match="respacing="):
        respaced(sections, 1000)


def test_levels_round_to_themselves_and_tell_their_step():
    denoiser = ddpm(diffusion_steps=500)
    levels = denoiser.levels
    assert bool((levels.diff() < 0).all()) and len(levels) == 500
    assert torch.equal(denoiser.round_sigma(levels * 1.0001), levels)
    c_noise = denoiser.coefficients(levels.float()).c_noise
    assert c_noise.tolist() == list(range(499, -1, -1))
    abar = 1 / (1 + levels.flip(0) ** 2)
    assert torch.allclose(abar, (1 - betas("linear", 500)).cumprod(0), rtol=1e-12)
    scaled = ddpm(diffusion_steps=4000, rescale_timesteps=True)
    assert float(scaled.coefficients(scaled.levels[:1].float()).c_noise) == pytest.approx(3999 / 4)


def test_the_mean_gets_no_gradient_from_the_bound():
    denoiser, loss = ddpm(learned=True), HybridLoss(DiscreteLevels())
    torch.manual_seed(0)
    batch = Batch(torch.rand(8, 1, 4, 4) * 2 - 1)
    out = loss(denoiser, batch, step_at())
    bound = out.terms["vb"].sum()
    of_noise, of_variance = torch.autograd.grad(
        bound, [denoiser.model.noise, denoiser.model.variance], allow_unused=True
    )
    assert float(of_noise) == 0 and float(of_variance) != 0


def test_the_variance_of_least_bound_is_the_true_one():
    # The bound in the variance alone is least where it equals E |posterior mean - model mean|^2 + beta-tilde.
    denoiser = GaussianDenoiser(0.0, 0.5)
    levels = torch.cat([levels_of(betas("linear", 20 * 3))[::6], torch.zeros(1, dtype=torch.float64)])
    steps, index = GaussianSteps(levels), torch.full((20000,), 5)
    torch.manual_seed(0)
    images = torch.randn(20000, 1, 1, 1, dtype=torch.float64) * 0.5
    sigma, sigma_next = levels[5], levels[6]
    x = images + sigma * torch.randn_like(images)
    with torch.no_grad():
        x0 = denoiser(x, sigma).x0
    posterior = 0.25 * sigma**2 / (0.25 + sigma**2)  # variance of images given x
    exact = (steps.log_small[5].exp() + (1 - (sigma_next / sigma) ** 2) ** 2 * posterior).log()
    bits = [float(steps.bits(images, x, x0, exact + shift, index).mean()) for shift in (-0.1, 0.0, 0.1)]
    assert bits[1] < bits[0] and bits[1] < bits[2]
    assert steps.log_small[5] < exact < steps.log_large[5]


def test_loss_aware_levels_follow_the_losses_and_keep_the_expectation():
    denoiser, noise = ddpm(diffusion_steps=40), LossAwareLevels(history=3)
    noise.setup(denoiser)
    levels = denoiser.levels.float().reshape(-1, 1, 1, 1)
    true = torch.linspace(1, 10, 40)
    for repeat in range(3):
        assert torch.allclose(noise.probabilities(), torch.full((40,), 1 / 40)), repeat
        noise.observe(levels, true, denoiser)
        noise.after_step()
    expected = 0.999 * true / true.sum() + 0.001 / 40
    assert torch.allclose(noise.probabilities(), expected, rtol=1e-5)
    torch.manual_seed(0)
    sigma = noise.sample(50000, denoiser, "cpu")
    index = denoiser.index(sigma).flatten()
    assert torch.allclose(torch.bincount(index, minlength=40) / 50000, expected, atol=5e-3)
    assert float((true[index] * noise.importance(sigma, denoiser).flatten()).mean()) == pytest.approx(5.5, rel=0.01)
    noise.observe(levels[[0] * 5], torch.tensor([9.0, 9.0, 1.0, 2.0, 3.0]), denoiser)
    noise.after_step()
    assert sorted(noise.losses[0].tolist()) == [1, 2, 3]  # only the last ones are kept


def test_loss_aware_levels_are_part_of_the_state():
    denoiser = ddpm(diffusion_steps=40)
    loss = make({"name": "simple", "noise": {"name": "loss_aware"}}, "loss")
    loss.setup(denoiser, lambda path: None)
    loss(denoiser, Batch(torch.zeros(4, 1, 4, 4)), step_at())
    loss.after_step(denoiser, step_at(), {"main"})
    again = make({"name": "simple", "noise": {"name": "loss_aware"}}, "loss")
    again.setup(denoiser, lambda path: None)
    again.load_state_dict(loss.state_dict())
    assert int(again.noise.counts.sum()) == 4 and torch.equal(again.noise.losses, loss.noise.losses)


class Given(GaussianDenoiser):
    """A denoiser with a given prediction."""

    def __init__(self, prediction):
        super().__init__()
        self.prediction = prediction

    def forward(self, x, sigma, cond=None):
        return self.prediction


def test_thresholding():
    x, x0 = torch.zeros(2, 1, 2, 2), torch.tensor([[-4.0, -1.0, 0.5, 2.0], [-0.5, 0.1, 0.2, 0.4]]).reshape(2, 1, 2, 2)
    denoiser = Given(Prediction(x0))
    assert clipped(denoiser, clip=True)(x, 2.0).x0[0].flatten().tolist() == [-1, -1, 0.5, 1]
    dynamic = clipped(denoiser, threshold=1.0)(x, 2.0).x0
    assert dynamic.flatten().tolist() == pytest.approx([-1, -0.25, 0.125, 0.5, -0.5, 0.1, 0.2, 0.4])
    gradient = torch.full_like(x0, 0.1)
    guided = clipped(Given(Prediction(x0 + 4 * gradient, guidance=gradient)), clip=True)(x, torch.tensor(2.0))
    assert torch.allclose(guided.x0, x0.clamp(-1, 1) + 0.4)  # what guidance adds is not clipped
    for bad in ({"threshold": 0.0}, {"threshold": 1.5}, {"threshold": 0.9, "clip": False}):
        with pytest.raises(UserError, match="threshold"):
            clipped(denoiser, **bad)


def test_models_of_ddpm_are_clipped_and_others_not():
    assert isinstance(clipped(ddpm()), Clipping) and not isinstance(clipped(ddpm(), clip=False), Clipping)
    latent = DDPMPrecond(Scaled(1), NetSpec((4, 4), 1, latent=True))
    assert clipped(latent) is latent and clipped(GAUSSIAN) is GAUSSIAN
    assert isinstance(clipped(BoundDenoiser(ddpm())), Clipping)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
@pytest.mark.parametrize("option", [{"noise_scale": 0.8}, {"epsilon_scale": 1.1}])
def test_a_reduced_temperature_narrows_the_samples(sampler, option):
    torch.manual_seed(0)
    denoise = BoundDenoiser(GaussianDenoiser(0.3, 0.5))
    eta = {"eta": 1.0} if sampler == "ddim" else {}
    spread = []
    for options in ({}, option):
        sampler_ = make({"name": sampler, **eta, **options}, "sampler")
        sigmas = Respaced()(denoise, 500)
        with torch.no_grad():
            x = sampler_(denoise, torch.randn(500, 1, 4, 4).double() * sigmas[0], sigmas, torch.randn_like)
        spread.append(float(x.std()))
    assert spread[0] == pytest.approx(0.5, abs=0.02) and spread[1] < 0.95 * spread[0]


def test_inversion_is_of_first_order():
    denoise = BoundDenoiser(GaussianDenoiser(0.0, 0.5))
    images = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(1, 1, 4, 4)
    errors, sampler = [], DDIMSampler()
    for steps in (250, 500, 1000):
        sigmas = Respaced(diffusion_steps=4000)(denoise, steps)
        with torch.no_grad():
            x = sampler.invert(denoise, images, sigmas)
            errors.append(float((sampler(denoise, x, sigmas, None) - images).abs().max()))
        exact = images * math.sqrt((0.25 + float(sigmas[0]) ** 2) / 0.25)
        assert float((x - exact).abs().max() / exact.abs().max()) < 0.1
    assert errors[0] < 5e-2
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.2) and errors[1] / errors[2] == pytest.approx(2, abs=0.2)
    with pytest.raises(UserError, match="eta"):
        DDIMSampler(eta=0.5).invert(denoise, images, sigmas)


def test_ddim_is_eulers_method_in_sigma():
    denoise = BoundDenoiser(GaussianDenoiser())
    x, sigmas = torch.randn(2, 1, 4, 4).double() * 5, rho_levels(9, 0.1, 5.0)
    euler = make({"name": "ablation", "process": "linear", "solver": "euler"}, "sampler")
    with torch.no_grad():
        assert torch.allclose(DDIMSampler()(denoise, x, sigmas, None), euler(denoise, x, sigmas, None), rtol=1e-12)


def test_ddim_with_eta_1_is_ddpm():
    denoise = BoundDenoiser(GaussianDenoiser())
    x, z, sigmas = torch.randn(2, 1, 4, 4).double() * 5, torch.randn(2, 1, 4, 4).double(), rho_levels(9, 0.1, 5.0)
    sigmas = torch.cat([sigmas, sigmas.new_zeros(1)])
    with torch.no_grad():
        ends = [one(denoise, x, sigmas, lambda x: z) for one in (DDIMSampler(eta=1.0), DDPMSampler(variance="small"))]
    assert torch.allclose(*ends, rtol=1e-10)


def test_schedules_of_a_discrete_model():
    denoise = ddpm()
    assert torch.equal(Respaced()(denoise, 1000)[:-1], denoise.levels)
    assert len(Respaced(respacing="ddim25")(denoise)) == 26
    assert Respaced(num_steps=1)(denoise).tolist() == [float(denoise.levels[0]), 0.0]
    with pytest.raises(UserError, match="steps"):
        Respaced(num_steps=1001)(denoise)
    with pytest.raises(UserError, match="respacing"):
        Respaced(num_steps=10, respacing="10")
    karras = make({"name": "karras"}, "schedule")(denoise, 18)
    assert all(float(sigma) in denoise.levels.tolist() for sigma in karras[:-1])


class ExactNoise(nn.Module):
    """The noise that is expected in c_in x of a Gaussian, at each step of a DDPM."""

    def __init__(self, mean, std, levels):
        super().__init__()
        self.mean, self.std = mean, std
        self.register_buffer("sigma", levels.flip(0).float())

    def forward(self, x, c_noise, cond):
        sigma = self.sigma[c_noise.long()].reshape(-1, 1, 1, 1)
        noisy = x * (1 + sigma**2).sqrt()
        return sigma * (noisy - self.mean) / (self.std**2 + sigma**2)


@pytest.mark.parametrize("sampler, steps", [("edm", 40), ("dpmpp2m", 60), ("ddim", 200), ("ddpm", 500), ("sde", 500)])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_every_sampler_draws_from_an_exact_ddpm(sampler, steps, schedule):
    denoiser = ddpm(beta_schedule=schedule, diffusion_steps=4000)
    denoiser.model = ExactNoise(0.1, 0.2, denoiser.levels)
    torch.manual_seed(0)
    sampler = make(sampler, "sampler")
    levels = make({"name": sampler.default_schedule, "num_steps": steps, "sigma_max": 80.0}, "schedule")
    sigmas = levels(BoundDenoiser(denoiser))
    with torch.no_grad():
        x = sampler(BoundDenoiser(denoiser), torch.randn(500, 1, 4, 4).double() * sigmas[0], sigmas, torch.randn_like)
    # Standard errors of 8000 numbers: 0.0022 and 0.0016.
    assert float(x.mean()) == pytest.approx(0.1, abs=0.01)
    assert float(x.std()) == pytest.approx(0.2, abs=0.012)
