"""Distillation of guidance: one evaluation gives what the teacher needs two for, at each scale in the range."""

import pytest
import torch
from torch import nn

from elucid.dnnlib.errors import UserError
from elucid.training.config.build import make_denoiser
from elucid.training.guidance.classifier_free import ClassifierFreeGuidance
from elucid.training.guidance.distilled import DistilledGuidance
from elucid.training.losses.distillation.guidance import GuidanceDistillation
from elucid.training.noise.distributions import LogNormal
from elucid.training.preconds.base import Coefficients, Denoiser
from elucid.training.sampling.guided import trained_scales
from elucid.training.snapshots.transfer import Teacher
from elucid.training.types import Batch, NetSpec, Prediction
from tests.oracles import MixtureDenoiser, step_at

SHAPE = (2, 1, 1)


def mixture():
    return MixtureDenoiser(shape=SHAPE, labelled=True)


def loss_of(teacher=None, **options):
    loss = GuidanceDistillation(LogNormal(-0.5, 1.0), "teacher.pkl", **options)
    return loss, lambda path: Teacher(teacher or mixture())


def spec(**vector):
    return NetSpec(SHAPE[1:], SHAPE[0], vector={"labels": 2, **vector})


def data(count):
    labels = torch.eye(2)[torch.randint(2, (count,))]
    classes = labels.argmax(1)
    noise = torch.randn(count, *SHAPE)
    means, stds = (values[classes].reshape(-1, 1, 1, 1) for values in (mixture().means, mixture().stds))
    return Batch(means + stds * noise, {"labels": labels})


def test_the_pupil_knows_each_scale():
    """Trained for a few hundred steps on an exact teacher, far nearer to it at its scale than at another."""
    torch.manual_seed(0)
    loss, load = loss_of(scales=(1.0, 4.0))
    network = {"name": "points_mlp", "hidden": 64, "num_layers": 3}
    student = make_denoiser(network, {"name": "edm"}, loss.adapt(spec())).train()
    loss.check(student)
    loss.setup(student, load)
    assert not any("teacher" in name for name, _ in loss.named_modules()) and not loss.state_dict()
    steps = 800
    optimizer = torch.optim.Adam(student.parameters(), lr=0.03)
    for index in range(steps):
        optimizer.param_groups[0]["lr"] = 0.03 * (1 - index / steps)
        out = loss(student, data(256), step_at())
        optimizer.zero_grad()
        out.loss.mean().backward()
        optimizer.step()
        student.after_step(step_at())
    student.eval()
    batch, sigma = data(2000), torch.full((2000,), 0.6)
    x = batch.images + 0.6 * torch.randn_like(batch.images)
    with torch.no_grad():
        for scale in (1.0, 2.0, 3.5):
            wanted = ClassifierFreeGuidance(mixture(), scale)(x, sigma, batch.cond).x0
            told = {told: DistilledGuidance(student, told)(x, sigma, batch.cond).x0 for told in (1.0, 2.0, 3.5)}
            error = {told: float((x0 - wanted).square().mean().sqrt()) for told, x0 in told.items()}
            assert error[scale] < 0.05 and all(error[other] > 5 * error[scale] for other in error if other != scale)


class Scaled(Denoiser):
    """The exact guided prediction, plus `wrong` times the scale."""

    def __init__(self, interval=None):
        super().__init__(nn.Identity(), spec(guidance_scale=1))
        self.teacher, self.interval = mixture(), interval
        self.wrong = nn.Parameter(torch.zeros(()))

    def coefficients(self, sigma):
        return Coefficients(*[torch.ones_like(sigma)] * 4)

    def forward(self, x, sigma, cond=None):
        scale = cond["guidance_scale"].reshape(-1, 1, 1, 1)
        if self.interval is not None:
            inside = (sigma > self.interval[0]) & (sigma <= self.interval[1])
            scale = torch.where(inside, scale, 1.0)
        main = self.teacher(x, sigma, cond).x0
        weak = self.teacher(x, sigma, {"labels": torch.zeros_like(cond["labels"])}).x0
        return Prediction(weak + scale * (main - weak) + self.wrong * scale)


@pytest.mark.parametrize("interval", [None, (0.3, 1.0)])
def test_the_exact_pupil_has_no_loss_and_no_gradient(interval):
    """Outside the interval the target is the teacher without guidance."""
    torch.manual_seed(0)
    loss, load = loss_of(interval=interval)
    exact, otherwise = Scaled(interval), Scaled(None if interval else (0.3, 1.0))
    loss.setup(exact, load)
    out = loss(exact, data(500), step_at()).loss
    [gradient] = torch.autograd.grad(out.mean(), exact.wrong)
    assert out.max() < 1e-9 and gradient.abs() < 1e-6
    assert loss(otherwise, data(500), step_at()).loss.max() > 1e-3
    with torch.no_grad():
        exact.wrong += 0.01
    [gradient] = torch.autograd.grad(loss(exact, data(500), step_at()).loss.mean(), exact.wrong)
    assert gradient > 0.01


def test_scales_are_drawn_from_the_range():
    loss, load = loss_of(scales=(2.0, 3.0))
    asked, student = [], Scaled()
    loss.setup(student, load)
    student.register_forward_pre_hook(lambda module, inputs: asked.append(inputs[2]["guidance_scale"]))
    loss(student, data(1000), step_at())
    [scales] = asked
    assert scales.shape == (1000, 1) and 2 <= scales.min() < 2.05 and 2.95 < scales.max() <= 3


class Told(Denoiser):
    """Returns the scale that it is told."""

    def __init__(self, **vector):
        super().__init__(nn.Identity(), spec(**vector))
        self.rows = []

    def forward(self, x, sigma, cond=None):
        self.rows.append(len(x))
        scale = torch.as_tensor(cond["guidance_scale"]).reshape(-1, 1, 1, 1)
        return Prediction(torch.zeros_like(x) + scale)


def test_guidance_of_one_evaluation():
    told, x = Told(guidance_scale=1), torch.zeros(3, *SHAPE)
    guided = DistilledGuidance(told, 2.5, (0.5, 2.0), trained=(1.0, 4.0))
    for sigma, scale in ((0.5, 1.0), (0.6, 2.5), (2.0, 2.5), (2.1, 1.0)):
        assert torch.equal(guided(x, sigma, {}).x0, torch.full_like(x, scale))
    assert told.rows == [3] * 4
    each = guided(x, torch.tensor([0.1, 1.0, 9.0]), {}).x0[:, 0, 0, 0]
    assert each.tolist() == [1.0, 2.5, 1.0]


def test_the_range_is_the_losses():
    chain = {"name": "uncertainty", "base": {"name": "guidance_distillation", "scales": [1, 4]}}
    assert trained_scales(chain) == [1.0, 4.0] and trained_scales({"name": "edm"}) is None and not trained_scales(None)


def test_mistakes():
    told = Told(guidance_scale=1)
    for scale in (0.9, 4.5, float("nan")):
        with pytest.raises(UserError, match="`guidance`="):
            DistilledGuidance(told, scale, trained=(1.0, 4.0))
    with pytest.raises(UserError, match="`guidance_interval`=2,1"):
        DistilledGuidance(told, 2.0, (2.0, 1.0))
    with pytest.raises(UserError, match="not told a scale"):
        DistilledGuidance(Told(), 2.0)
    for scales in ([1.0], [4.0, 1.0], [-1.0, 2.0]):
        with pytest.raises(UserError, match=r"loss.scales=\["):
            loss_of(scales=scales)
    with pytest.raises(UserError, match="`teacher`"):
        GuidanceDistillation(LogNormal()).check(Scaled())
    plain = Scaled()
    plain.spec = NetSpec((1, 1), 2, vector={"guidance_scale": 1})
    loss, load = loss_of()
    with pytest.raises(UserError, match="`cond`=1"):
        loss.check(plain)
    loss, load = loss_of(MixtureDenoiser(shape=SHAPE))
    with pytest.raises(UserError, match="`teacher`=teacher.pkl has no classes"):
        loss.setup(Scaled(), load)
