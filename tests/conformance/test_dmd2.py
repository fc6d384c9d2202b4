"""DMD2 and its adversarial terms equal the published program and FastGen: gradients, losses, gradient norms."""

import pytest
import torch
from torch import nn

from elucid.training.losses.distillation.discriminator import discriminator_loss, generator_loss
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.registry.components import make
from elucid.training.types import Batch, NetSpec
from tests import vectors
from tests.conformance.test_consistency_models import cases, load
from tests.tiny import Tiny


class Inside(Tiny):
    """Tiny, whose own output is the layer that the recorded classifier sees."""

    def forward(self, x, c_noise, cond):
        out = super().forward(x, c_noise, cond)
        return out, {"bottleneck": out}


def denoiser_of(case, arrays, factor):
    classes = arrays["class_labels"].shape[1]
    spec = NetSpec((4, 4), 3, vector={"labels": classes}, features=("bottleneck",))
    return EDMPrecond(Inside(case, factor), spec)


@pytest.fixture(params=cases("dmd2"))
def recorded(request):
    """Case, arrays, and the loss with the recorded teacher, fake score and classifier."""
    case, arrays = load(request.param)
    options = case["options"]
    shares = {"first": options["min_step"] / options["steps"], "last": options["max_step"] / options["steps"]}
    bounds = {"sigma_min": options["sigma_min"], "sigma_max": options["sigma_max"]}
    loss = make({"name": "dmd2", "teacher": "none", **shares, **bounds}, "loss")
    loss.teacher, loss.fake = denoiser_of(case, arrays, 1.0), denoiser_of(case, arrays, 0.9)
    loss.head = nn.Sequential(nn.Conv2d(3, 1, 4))
    for name, shape in (("0.weight", (1, 3, 4, 4)), ("0.bias", (1,))):
        loss.head.get_parameter(name).data = vectors.formula(case["salt"], name, shape)
    return loss, arrays, case


def noisy(loss, images, index, noise):
    sigma = loss.diffusion.at(index)
    return images + sigma * noise, sigma


class Recorded:
    """Recorded draws of index and noise, in the place of `Diffusion.draw`."""

    def __init__(self, diffusion, *pairs):
        self.diffusion, self.pairs = diffusion, list(pairs)

    def draw(self, images):
        index, noise = self.pairs.pop(0)
        sigma = self.diffusion.at(index)
        return images + sigma * noise, sigma


def test_levels(recorded):
    loss, arrays, _ = recorded
    assert vectors.relative_error(loss.diffusion.grid[::37], arrays["sigmas"]) < 1e-6
    drawn = loss.diffusion.draw(torch.zeros(4000, 1, 1, 1))[1]
    assert loss.diffusion.grid[20] - 1e-6 <= drawn.min() < loss.diffusion.grid[30]
    assert loss.diffusion.grid[970] < drawn.max() <= loss.diffusion.grid[979] + 1e-5


def test_gradient_of_the_generator(recorded):
    loss, arrays, _ = recorded
    images = arrays["images"].requires_grad_(True)
    cond = {"labels": arrays["class_labels"]}
    x, sigma = noisy(loss, images.detach(), arrays["dm_index"], arrays["dm_noise"])
    fake, real = loss.fake(x, sigma, cond).x0, loss.teacher(x, sigma, cond).x0
    assert vectors.relative_error(fake, arrays["pred_fake"]) < 1e-5
    assert vectors.relative_error(real, arrays["pred_real"]) < 1e-5
    loss.head = None
    out = loss.of_generator(images, x, sigma, cond)
    out.loss.mean().backward()
    # The norm of a difference of two nearly equal predictions: float32 leaves it about four digits.
    assert vectors.relative_error(loss.direction(images, fake, real), arrays["dm_grad"]) < 1e-5
    assert float(out.loss.detach().mean()) == pytest.approx(float(arrays["dm_loss"]), rel=1e-5)
    assert vectors.relative_error(images.grad, arrays["dm_image_gradient"]) < 1e-5


def test_loss_of_the_fake_score(recorded):
    loss, arrays, case = recorded
    loss.head = None
    # Recorded in the order in which they were drawn, the noise under the name of the index.
    index, noise = arrays["fake_noise"], arrays["fake_index"]
    batch = Batch(arrays["images"], {"labels": arrays["class_labels"]})
    out = loss.of_fake(batch, arrays["images"], *noisy(loss, arrays["images"], index, noise))
    assert float(out.loss.detach().mean()) == pytest.approx(float(arrays["fake_loss"]), rel=1e-5)
    out.loss.mean().backward()
    found = loss.fake.model.grad_norms()
    for name, norm in case["grad_norms_fake"].items():
        assert found[name] == pytest.approx(norm, rel=1e-5)


def test_classifier(recorded):
    loss, arrays, _ = recorded
    batch = Batch(arrays["real_images"], {"labels": arrays["class_labels"]})
    pairs = [(arrays["cls_draw0"], arrays["cls_draw1"]), (arrays["cls_draw2"], arrays["cls_draw3"])]
    loss.shown = Recorded(loss.diffusion, *pairs)
    index, noise = arrays["fake_noise"], arrays["fake_index"]
    out = loss.of_fake(batch, arrays["images"], *noisy(loss, arrays["images"], index, noise))
    assert float(out.terms["classifier"].mean()) == pytest.approx(float(arrays["cls_loss"]), rel=1e-5)
    whole = out.terms["fake_score"] + loss.classifier_weight * out.terms["classifier"]
    assert torch.equal(out.loss, whole) and loss.classifier_weight == 1e-2
    loss.shown = Recorded(loss.diffusion, (arrays["gen_cls_index"], arrays["gen_cls_noise"]))
    x, sigma = noisy(loss, arrays["images"], arrays["dm_index"], arrays["dm_noise"])
    out = loss.of_generator(arrays["images"], x, sigma, batch.cond)
    assert float(out.terms["gan"].mean()) == pytest.approx(float(arrays["gen_cls_loss"]), rel=1e-5)
    assert torch.equal(out.loss, out.terms["matching"] + loss.gan_weight * out.terms["gan"]) and loss.gan_weight == 3e-3


@pytest.mark.parametrize("path", cases("fastgen_dmd_and_sampler"))
def test_fastgen(path):
    case, arrays = load(path)
    loss = make(
        {"name": "dmd2", "teacher": "none", "normalisation": "vsd", "gan_weight": 0, "classifier_weight": 0}, "loss"
    )
    made = arrays["gen"].requires_grad_(True)
    loss.teacher, loss.fake = Fixed(arrays["teacher_x0"]), Fixed(arrays["fake_x0"])
    loss.head = None
    out = loss.of_generator(made, made, torch.ones(6, 1, 1, 1), {})
    assert float(out.loss.detach().mean()) == pytest.approx(float(arrays["vsd_loss"]), rel=1e-5)
    out.loss.mean().backward()
    assert vectors.relative_error(made.grad, arrays["vsd_grad"]) < 1e-5
    fake, real = arrays["fake_logits"].flatten(), arrays["real_logits"].flatten()
    assert float(generator_loss(fake).mean()) == pytest.approx(float(arrays["gan_generator"]), rel=1e-5)
    assert float(discriminator_loss(real, fake).mean()) == pytest.approx(float(arrays["gan_discriminator"]), rel=1e-5)


class Fixed:
    """A denoiser that predicts what was recorded."""

    def __init__(self, x0):
        self.x0 = x0

    def __call__(self, x, sigma, cond):
        return self


def test_there_are_cases():
    assert cases("dmd2") and cases("fastgen_dmd_and_sampler")
