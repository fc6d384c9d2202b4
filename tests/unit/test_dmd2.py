"""DMD2 moves a generator's distribution to the data's; both adversarial losses refuse what makes no sense."""

import copy
from types import SimpleNamespace

import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.training.config.build import adapted, make_denoiser
from elucid.training.losses.distillation.discriminator import discriminator_loss, generator_loss
from elucid.training.registry.components import make
from elucid.training.snapshots.transfer import Teacher
from elucid.training.types import Batch, NetSpec, Prediction, Step

STEP = Step(index=0, nimg=0, total_nimg=1000, seed=0, batch_size=8)
NO_GAN = {"gan_weight": 0, "classifier_weight": 0}


class Gaussian:
    """The exact denoiser of N(mean, deviation^2)."""

    def __init__(self, mean, deviation):
        self.mean, self.deviation = mean, deviation

    def __call__(self, x, sigma, cond=None):
        share = self.deviation**2 / (self.deviation**2 + sigma**2)
        return Prediction(self.mean + share * (x - self.mean))


def test_a_gaussian_generator_gets_the_mean_and_deviation_of_the_data():
    torch.manual_seed(0)
    loss = make({"name": "dmd2", "teacher": "none", **NO_GAN}, "loss")
    loss.head, loss.teacher = None, Gaussian(0.3, 0.5)
    values = torch.tensor([-0.6, 1.2], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([values], lr=0.02)
    for _ in range(300):
        made = values[0] + values[1] * torch.randn(2048, 1, 1, 1, dtype=torch.float64)
        loss.fake = Gaussian(*values.detach())  # as good as it can be
        out = loss.of_generator(made, *loss.diffusion.draw(made.detach()), {})
        optimizer.zero_grad()
        out.loss.mean().backward()
        optimizer.step()
    assert values.tolist() == pytest.approx([0.3, 0.5], abs=0.02)


@pytest.mark.parametrize("added", [0.0, 0.2])
def test_the_fake_score_is_that_of_the_generator(added):
    """The expected gradient of its mean and deviation is 0 at those of the generator, and only there."""
    torch.manual_seed(0)
    loss = make({"name": "dmd2", "teacher": "none", **NO_GAN}, "loss")
    values = torch.tensor([0.3 + added, 0.5 + added], dtype=torch.float64, requires_grad=True)
    loss.head, loss.fake = None, Gaussian(*values)
    made = 0.3 + 0.5 * torch.randn(200_000, 1, 1, 1, dtype=torch.float64)
    out = loss.of_fake(Batch(made), made, *loss.diffusion.draw(made))
    gradient = torch.autograd.grad(out.loss.mean(), values, retain_graph=True)[0]
    parts = out.loss.chunk(20)
    each = torch.stack([torch.autograd.grad(part.mean(), values, retain_graph=True)[0] for part in parts])
    noise = each.std(dim=0) / len(each) ** 0.5
    assert ((gradient.abs() < 5 * noise) if not added else (gradient.abs() > 10 * noise)).all()


@pytest.mark.parametrize("kind", ["non_saturating", "hinge"])
def test_logits_move_apart_and_the_generator_towards_real(kind):
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    discriminator_loss(real, fake, kind).sum().backward()
    assert (real.grad < 0).all() and (fake.grad > 0).all()
    made = torch.zeros(3, requires_grad=True)
    generator_loss(made, kind).sum().backward()
    assert (made.grad < 0).all()
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-2.0, -0.5])
    assert kind != "hinge" or discriminator_loss(real, fake, kind).tolist() == [0.0, 1.0]


def denoiser_for(loss, precond=None, precision="fp32"):
    torch.manual_seed(0)
    spec = adapted(NetSpec((8, 8), 1, vector={"labels": 3}), loss)
    network = {"name": "ddpmpp", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": []}
    denoiser = make_denoiser(network, precond or {"name": "edm"}, spec, precision)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return denoiser.train()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp64"])
@pytest.mark.parametrize("name", ["dmd2", "adversarial"])
def test_phases_train_their_own_parameters(name, precision):
    base = {"base": {"name": "edm"}} if name == "adversarial" else {"teacher": "t", "levels": [80.0, 5.0, 1.0]}
    loss = make({"name": name, **base}, "loss")
    denoiser = denoiser_for(loss, precision=precision)
    denoiser = denoiser.double() if precision == "fp64" else denoiser
    loss.check(denoiser)
    loss.setup(denoiser, lambda path: Teacher(copy.deepcopy(denoiser)))
    torch.nn.init.normal_(loss.head.linear.weight)
    batch = Batch(torch.randn(4, 1, 8, 8), {"labels": torch.eye(3)[[0, 1, 2, 0]]})
    every = dict([*denoiser.named_parameters("denoiser"), *loss.named_parameters("loss")])
    trained = {phase: dict(loss.parameters_of(denoiser, phase)) for phase in loss.all_phases}
    assert not set.intersection(*map(set, trained.values())) and set.union(*map(set, trained.values())) == set(every)
    for phase, own in trained.items():
        for parameter in every.values():
            parameter.grad = None
            parameter.requires_grad_(any(parameter is one for one in own.values()))
        if name == "dmd2" and phase == "main":
            loss.fake.model.dec["8x8_block0"].conv1.weight.data.mul_(1.5)  # it is no longer the teacher
        out = loss(denoiser, batch, STEP.replace(phase=phase))
        assert out.loss.shape == (4,) and out.loss.isfinite().all()
        out.loss.mean().backward()
        without = {key for key, one in own.items() if one.grad is None or not one.grad.abs().sum() > 0}
        # A discriminator has no use for the half behind its bottleneck.
        assert not {key for key in without if phase != "discriminator" or ".dec." not in key}
        assert any(".dec." in key for key in without) == (phase == "discriminator")
    assert loss.all_phases[-1] == "main" and loss.phases(STEP).count("main") == 1


def test_updates_and_learning_rates():
    loss = make({"name": "dmd2", "teacher": "t", "fake_updates": 3, "fake_lr": 0.5}, "loss")
    assert loss.phases(STEP) == ("fake", "fake", "fake", "main")
    assert loss.optimizer_options("fake") == {"lr": 0.5} and loss.optimizer_options("main") == {}
    wrapped = make({"name": "adversarial", "base": {"name": "edm"}, "lr": 0.1}, "loss")
    assert wrapped.phases(STEP) == ("discriminator", "main")
    assert wrapped.optimizer_options("discriminator") == {"lr": 0.1} and wrapped.optimizer_options("main") == {}


def test_several_levels_begin_with_the_generators_own_images():
    loss = make({"name": "dmd2", "teacher": "t", "levels": [80.0, 5.0], **NO_GAN}, "loss")
    calls = []

    def denoiser(x, sigma, cond):
        calls.append((float(x.std()), sigma, torch.is_grad_enabled()))
        return SimpleNamespace(x0=torch.zeros_like(x))

    torch.manual_seed(0)
    for _ in range(20):
        loss.generate(denoiser, Batch(torch.zeros(64, 1, 8, 8)))
    firsts = [one for one in calls if one[1] == 80.0]
    seconds = [one for one in calls if one[1] == 5.0]
    assert len(firsts) == 20 and 4 < len(seconds) < 16
    assert all(deviation == pytest.approx(level, rel=0.1) for deviation, level, _ in calls)
    assert all(grad for *_, grad in seconds) and sum(not grad for *_, grad in firsts) == len(seconds)


DMD2 = {"name": "dmd2", "teacher": "t"}
REFUSED = [
    ({"name": "dmd2"}, {}, "needs a teacher"),
    (DMD2, {"precond": {"name": "iddpm"}}, "any noise level"),
    (DMD2, {"precision": "fp16"}, "bf16"),
    ({"name": "uncertainty", "base": DMD2}, {}, "leave them out"),
    ({"name": "perceptual", "features": {"name": "efflite0"}, "base": DMD2}, {}, "dmd2 predicts none"),
    ({"name": "adversarial", "base": DMD2}, {}, "dmd2 begins with none"),
    ({"name": "adversarial", "base": {"name": "adversarial", "base": {"name": "edm"}}}, {}, "discriminator of its own"),
    ({"name": "adversarial", "base": {"name": "patch", "base": {"name": "edm"}}}, {}, "patch"),
    ({"name": "uncertainty", "base": {"name": "adversarial", "base": {"name": "edm"}}}, {}, "negative"),
]


@pytest.mark.parametrize(("component", "how", "message"), REFUSED)
def test_what_makes_no_sense_is_refused(component, how, message):
    loss = make(component, "loss")
    denoiser = denoiser_for(loss, **how)
    with pytest.raises(UserError, match=message):
        loss.check(denoiser)


BAD = [
    ({"levels": [5.0, 80.0]}, "largest first"),
    ({"fake_updates": 0}, "fake_updates"),
    ({"gan_weight": 0}, "both"),
    ({"normalisation": "l2"}, "dmd2, vsd"),
    ({"first": 0.9, "last": 0.1}, "first < last"),
    ({"sigma_min": 100}, "sigma_max"),
    ({"name": "adversarial", "base": {"name": "edm"}, "kind": "wasserstein"}, "non_saturating, hinge"),
    ({"name": "adversarial", "base": {"name": "edm"}, "weight": 0}, "weight"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_impossible_options(options, message):
    with pytest.raises(UserError, match=message):
        make({"name": "dmd2", **options}, "loss")
