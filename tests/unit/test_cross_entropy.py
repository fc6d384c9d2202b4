"""The loss of classifiers and their random crops."""

import math

import pytest
import torch
from torch import nn

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.stats import Statistics
from elucid.training.losses.base import with_total
from elucid.training.losses.cross_entropy import CrossEntropy
from elucid.training.noise.distributions import LogNormal, LogUniform
from elucid.training.noise.loss_aware import LossAwareLevels
from elucid.training.preconds.classifier import NoisyClassifier
from elucid.training.preconds.ddpm import DDPMClassifier
from elucid.training.registry.components import make
from elucid.training.transforms.coordinates import Coordinates
from elucid.training.transforms.random_crop import RandomCrop
from elucid.training.types import Batch, NetSpec
from tests.oracles import GaussianDenoiser, MixtureClassifier, MixtureDenoiser, step_at

SPEC = NetSpec((4, 4), 1, vector={"labels": 3})


class Logits(nn.Module):
    """The same logits for all images; refuses to be told the labels."""

    def __init__(self, *logits):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor(logits))
        self.seen = []

    def forward(self, x, c_noise, cond):
        assert "labels" not in cond
        self.seen.append(c_noise)
        return self.logits.expand(len(x), -1)


def classifier(discrete=False):
    kind, net = (DDPMClassifier if discrete else NoisyClassifier), Logits(1.0, 2.0, 0.0)
    return kind(net, kind.adapt(SPEC))


def batch_of(labels):
    return Batch(torch.zeros(len(labels), 1, 4, 4), {"labels": labels})


def test_it_is_the_negative_log_likelihood_per_image():
    labels = torch.eye(3)[[0, 1, 2, 1]]
    model = classifier()
    out = with_total(CrossEntropy()(model, batch_of(labels), step_at()), model, torch.zeros(4, 1, 4, 4), step_at())
    log_probability = torch.tensor([1.0, 2.0, 0.0]).log_softmax(0)
    assert torch.allclose(out.loss, -log_probability[[0, 1, 2, 1]]) and torch.equal(out.terms["loss"], out.loss)
    assert out.terms["accuracy"].tolist() == [0, 1, 0, 1]
    soft = CrossEntropy()(model, batch_of(torch.tensor([[0.5, 0.25, 0.25]])), step_at())
    assert torch.allclose(soft.loss, -(log_probability * torch.tensor([0.5, 0.25, 0.25])).sum())


@pytest.mark.parametrize("discrete", [False, True])
def test_the_quarters_hold_a_quarter_of_the_noise_levels_each(discrete):
    torch.manual_seed(0)
    model, loss, count = classifier(discrete), CrossEntropy(), 8000
    out = loss(model, batch_of(torch.eye(3)[[1] * count]), step_at())
    parts = [out.terms[f"accuracy_q{i}"] for i in (1, 2, 3, 4)]
    assert sum(map(len, parts)) == count and torch.equal(torch.cat(parts), torch.ones(count))
    assert all(abs(len(part) / count - 0.25) < 0.03 for part in parts)
    edges = torch.tensor([-0.674, 0, 0.674]) * 1.2 - 1.2
    if discrete:
        ascending = model.levels.flip(0)
        assert all(ascending[i - 1] < edge < ascending[i] for i, edge in zip((250, 500, 750), loss._edges, strict=True))
    else:
        assert torch.allclose(loss._edges.log(), edges, atol=0.06)


def test_the_quarters_do_not_touch_the_random_numbers_of_the_run():
    drawn = []
    for known in (False, True):
        loss, model = CrossEntropy(), classifier()
        if known:
            loss.quarter(torch.ones(1, 1, 1, 1), model)
        torch.manual_seed(1)
        loss(model, batch_of(torch.eye(3)), step_at())
        drawn.append((torch.rand(1), model.model.seen[0]))
    assert torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][1], drawn[1][1])


def test_an_exact_classifier_knows_less_the_more_noise():
    torch.manual_seed(0)
    mixture, count = MixtureDenoiser(), 20000
    kinds = (torch.rand(count) < mixture.weights[1]).long()
    images = mixture.means[kinds][:, None] + mixture.stds[kinds][:, None] * torch.randn(count, 2)
    batch = Batch(images.reshape(count, 1, 1, 2), {"labels": torch.eye(2)[kinds]})
    out = CrossEntropy(LogNormal(P_mean=-0.5))(MixtureClassifier(mixture), batch, step_at())
    quarters = [float(out.terms[f"accuracy_q{i}"].mean()) for i in (1, 2, 3, 4)]
    assert quarters[0] > 0.95 and quarters == sorted(quarters, reverse=True) and quarters[3] > 0.65


def test_a_quarter_without_images_is_not_logged():
    loss = CrossEntropy()
    stats = Statistics()
    out = loss(classifier(), batch_of(torch.eye(3)[[1]]), step_at())
    assert sum(name.startswith("accuracy_q") for name in out.terms) == 1
    for name, term in out.terms.items():
        stats.report(name, term)
    assert all(math.isfinite(one["mean"]) for one in stats.collect().values())


def test_the_noise_follows_the_classifier_unless_chosen():
    discrete, continuous = classifier(True), classifier()
    CrossEntropy()(discrete, batch_of(torch.eye(3)[[0] * 64]), step_at())
    seen = discrete.model.seen[0]
    assert torch.equal(seen, seen.round()) and seen.min() >= 0 and seen.max() < 1000 and len(seen.unique()) > 40
    loss = make({"name": "cross_entropy", "noise": {"name": "loguniform", "sigma_min": 1.0, "sigma_max": 2.0}}, "loss")
    loss(continuous, batch_of(torch.eye(3)[[0] * 64]), step_at())
    assert isinstance(loss.noise, LogUniform) and 0 <= continuous.model.seen[0].min() * 4 < math.log(2)
    changed = make({"name": "cross_entropy", "noise": {"P_mean": 2.0}}, "loss")
    assert (changed.noise.P_mean, changed.noise.P_std) == (2.0, 1.2)


def test_levels_drawn_by_their_loss_learn_it_and_are_weighted():
    loss, model = CrossEntropy(LossAwareLevels(history=1)), classifier(True)
    loss.check(model)
    loss.setup(model, None)
    for _ in range(200):
        loss(model, batch_of(torch.eye(3)[[2] * 64]), step_at())
        loss.after_step(model, step_at(), {"main"})
    assert (loss.noise.counts > 0).all() and torch.allclose(loss.noise.losses, torch.tensor(2.4076), atol=1e-3)
    out = loss(model, batch_of(torch.eye(3)[[2] * 64]), step_at())
    assert torch.allclose(out.loss, torch.tensor(2.4076), atol=1e-2)


@pytest.mark.parametrize(
    "labels", [torch.tensor([[0.0, 1, 0], [0, 0, 0]]), torch.tensor([[0.0, 1, 0], [2.0, -1, 0]]), torch.ones(2, 3)]
)
def test_labels_that_are_no_classes_are_refused(labels):
    with pytest.raises(UserError, match="loss CrossEntropy: . of 2 images have no class.* without `label_dropout`"):
        CrossEntropy()(classifier(), batch_of(labels), step_at())


def test_other_mistakes_are_refused():
    with pytest.raises(UserError, match="the images have no classes; use a dataset with labels and `cond`=1"):
        CrossEntropy()(classifier(), Batch(torch.zeros(2, 1, 4, 4)), step_at())
    with pytest.raises(UserError, match="CrossEntropy trains classifiers, GaussianDenoiser is not one; use `precond`="):
        CrossEntropy().check(GaussianDenoiser())
    with pytest.raises(UserError, match="needs discrete noise levels, NoisyClassifier has none"):
        make({"name": "cross_entropy", "noise": {"name": "levels"}}, "loss").check(classifier())


def ramp(count=64, height=9, width=17):
    """Images whose two channels are the coordinates of their pixels."""
    batch = Coordinates()(Batch(torch.zeros(count, 2, height, width)))
    return Batch(batch.cond["coords"].clone(), batch.cond)


def test_a_crop_is_a_part_of_the_image_at_its_coordinates():
    torch.manual_seed(0)
    batch = ramp()
    out = RandomCrop(0.5)(batch)
    assert out.images.shape == batch.images.shape
    assert torch.allclose(out.images, out.cond["coords"], atol=1e-6)
    low, high = (getattr(out.images.flatten(2), name)(dim=2) for name in ("amin", "amax"))
    assert low.min() >= -1 - 1e-6 and high.max() <= 1 + 1e-6
    sides = (high - low) / 2
    assert torch.allclose(sides[:, 0], sides[:, 1], atol=1e-5), "the same fraction of both sides"
    assert 0.5 <= sides.min() < 0.56 and 0.94 < sides.max() <= 1 + 1e-6
    assert len(out.images[:, 0, 0, 0].unique()) > 60, "each image has its own"
    rows = out.images[:, 1, :, 0]
    steps = rows[:, 1:] - rows[:, :-1]
    assert torch.allclose(steps, steps.mean(1, keepdim=True).expand_as(steps), atol=1e-5), "evenly enlarged"


def test_the_whole_image_is_the_largest_crop():
    images = torch.randn(3, 3, 8, 8)
    out = make({"name": "random_crop", "min_fraction": 1.0}, "transform")(Batch(images, {"labels": torch.eye(3)}))
    assert torch.allclose(out.images, images, atol=1e-5) and torch.equal(out.cond["labels"], torch.eye(3))


def test_crops_that_cannot_be_made_are_refused():
    for fraction in (0.0, 1.1):
        with pytest.raises(UserError, match="min_fraction=.* must be above 0 and at most 1; ADM uses 0.8"):
            RandomCrop(fraction)
    with pytest.raises(UserError, match="random_crop does not know the map 'depth'"):
        RandomCrop()(Batch(torch.zeros(1, 1, 4, 4), {"depth": torch.zeros(1, 1, 4, 4)}))
