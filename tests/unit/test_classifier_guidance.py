"""Classifier guidance: with the exact classifier of a mixture it samples the class itself; how it nests; refusals."""

import math

import pytest
import torch
from torch import nn

from elucid.dnnlib.errors import UserError
from elucid.training.encoders.rgb import RGB
from elucid.training.guidance.autoguidance import AutoGuidance
from elucid.training.guidance.classifier import ClassifierGuidance
from elucid.training.guidance.classifier_free import ClassifierFreeGuidance
from elucid.training.noise.schedules import Karras
from elucid.training.preconds.classifier import NoisyClassifier
from elucid.training.preconds.ddpm import DDPMClassifier, DDPMPrecond
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.samplers.ddim import DDIMSampler
from elucid.training.samplers.ddpm import DDPMSampler
from elucid.training.samplers.dpmpp2m import DPMpp2MSampler
from elucid.training.samplers.edm import EDMSampler
from elucid.training.samplers.sde import SDESampler
from elucid.training.sampling.generate import generate
from elucid.training.types import NetSpec, Prediction
from tests.oracles import MixtureClassifier, MixtureDenoiser

MIXTURE = MixtureDenoiser()
CLASSIFIER = MixtureClassifier(MIXTURE)
EYE = torch.eye(2)
X = torch.linspace(-2, 2, 16).reshape(8, 1, 1, 2)
SIGMA = torch.tensor([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4])


def labels(kind, count=8):
    return {"labels": EYE[kind].expand(count, -1)}


def of_class(kind, x=X, sigma=SIGMA):
    return MIXTURE.of_classes(x, sigma.reshape(-1, 1, 1, 1))[kind]


@pytest.mark.parametrize("kind", [0, 1])
def test_the_exact_classifier_turns_the_mixture_into_its_class(kind):
    """D + sigma^2 grad ln p(k | x; sigma) is D of class k, by Bayes at each noise level."""
    with torch.no_grad():
        out = ClassifierGuidance(MIXTURE, CLASSIFIER)(X, SIGMA, labels(kind))
    assert torch.allclose(out.x0, of_class(kind), atol=2e-5)
    plain = MIXTURE(X, SIGMA).x0
    assert torch.allclose(plain + SIGMA.reshape(-1, 1, 1, 1) ** 2 * out.guidance, out.x0, atol=1e-6)
    assert not out.x0.requires_grad and not out.guidance.requires_grad


def test_other_scales_tilt_by_as_much():
    with torch.no_grad():
        out = ClassifierGuidance(MIXTURE, CLASSIFIER, 2.5)(X, SIGMA, labels(1))
    plain = MIXTURE(X, SIGMA).x0
    assert torch.allclose(out.x0, plain + 2.5 * (of_class(1) - plain), atol=5e-5)


SAMPLERS = {
    "edm": (EDMSampler(), 40),
    "dpmpp2m": (DPMpp2MSampler(), 60),
    "sde": (SDESampler(), 200),
    "ddpm": (DDPMSampler(variance="small"), 250),
    "ddpm, large": (DDPMSampler(variance="large"), 250),
    "ddim": (DDIMSampler(), 150),
    "ddim, eta": (DDIMSampler(eta=1.0), 250),
}


@pytest.mark.parametrize(("name", "kind"), [*((name, 0) for name in SAMPLERS), ("edm", 1), ("ddpm", 1), ("ddim", 1)])
def test_samples_of_the_guided_mixture_are_of_the_class(name, kind):
    """Mean and covariance of p(x | k), within the error of so many samples and steps, of a denoiser without classes."""
    sampler, steps = SAMPLERS[name]
    guided, count = ClassifierGuidance(MIXTURE, CLASSIFIER), 2000
    sigmas = Karras(steps, sigma_max=40.0)(guided)
    torch.manual_seed(kind)
    x = torch.randn(count, 1, 1, 2, dtype=torch.float64) * sigmas[0]
    with torch.no_grad():
        out = sampler(BoundDenoiser(guided, labels(kind, count)), x, sigmas, torch.randn_like).flatten(1)
    mean, std = float(MIXTURE.means[kind]), float(MIXTURE.stds[kind])
    assert torch.allclose(out.mean(0), torch.full((2,), mean).double(), atol=4 * std / math.sqrt(count))
    error = 5 * std**2 * math.sqrt(2 / count)
    assert torch.allclose(out.T.cov(), torch.eye(2).double() * std**2, atol=error), out.T.cov() / std**2


def test_without_a_label_nothing_is_added():
    guided = ClassifierGuidance(MIXTURE, CLASSIFIER, 3.0)
    out = guided(X, SIGMA, {"labels": torch.zeros(8, 2)})
    assert torch.equal(out.x0, MIXTURE(X, SIGMA).x0) and not out.guidance.any()
    assert guided(X, SIGMA).guidance is None
    some = guided(X, SIGMA, {"labels": torch.cat([torch.zeros(4, 2), EYE[[1] * 4]])})
    assert not some.guidance[:4].any() and some.guidance[4:].any()


def test_soft_labels_mix_the_gradients():
    both = ClassifierGuidance(MIXTURE, CLASSIFIER)(X, SIGMA, {"labels": torch.tensor([[0.25, 0.75]]).expand(8, -1)})
    one, other = (ClassifierGuidance(MIXTURE, CLASSIFIER)(X, SIGMA, labels(kind)).guidance for kind in (0, 1))
    assert torch.allclose(both.guidance, 0.25 * one + 0.75 * other, atol=1e-5)


def test_the_interval_and_scale_zero_cost_nothing():
    calls = []
    judge = MixtureClassifier(MIXTURE)
    judge.register_forward_hook(lambda *_: calls.append(1))
    inside = ClassifierGuidance(MIXTURE, judge, 1.0, (0.3, 2.0))
    out = inside(X, SIGMA, labels(0))
    within = (SIGMA > 0.3) & (SIGMA <= 2.0)
    assert torch.allclose(out.x0[within], of_class(0)[within], atol=2e-5) and not out.guidance[~within].any()
    assert torch.equal(out.x0[~within], MIXTURE(X, SIGMA).x0[~within])
    calls.clear()
    assert inside(X, 5.0, labels(0)).guidance is None and not calls
    assert ClassifierGuidance(MIXTURE, judge, 0.0)(X, 1.0, labels(0)).guidance is None and not calls


def test_an_unconditional_model_has_the_classes_of_the_classifier():
    guided = ClassifierGuidance(MIXTURE, CLASSIFIER, 1.5)
    assert (guided.spec.vector, guided.spec.out_channels) == ({"labels": 2}, 1)
    assert ClassifierGuidance(MixtureDenoiser(labelled=True), CLASSIFIER).spec.vector == {"labels": 2}


@pytest.mark.parametrize("sampler", [EDMSampler(), DDPMSampler(), SDESampler()])
def test_a_seed_has_one_image_whatever_the_batch(sampler):
    mixture = MixtureDenoiser(shape=(1, 4, 4))
    guided = ClassifierGuidance(mixture, MixtureClassifier(mixture), 2)
    with_batch = [
        torch.cat([part.images for part in generate(guided, RGB(), range(6), sampler=sampler, batch_size=size)])
        for size in (1, 4, 64)
    ]
    alone = next(generate(guided, RGB(), [3], sampler=sampler)).images
    assert torch.equal(with_batch[0], with_batch[1]) and torch.equal(with_batch[1], with_batch[2])
    assert torch.equal(alone[0], with_batch[0][3])
    labels_of = torch.cat([part.labels for part in generate(guided, RGB(), range(32))])
    assert set(labels_of.tolist()) == {0, 1}, "seeds draw classes"
    chosen = next(generate(guided, RGB(), range(4), classes=1)).labels
    assert chosen.tolist() == [1] * 4


def test_classifier_free_guidance_inside():
    model = MixtureDenoiser(labelled=True)
    both = ClassifierGuidance(ClassifierFreeGuidance(model, 2.0), CLASSIFIER, 0.5)(X, SIGMA, labels(1))
    plain = MIXTURE(X, SIGMA).x0
    step = of_class(1) - plain
    assert torch.allclose(both.x0, plain + 2.5 * step, atol=5e-5)
    assert torch.allclose(both.guidance * SIGMA.reshape(-1, 1, 1, 1) ** 2, 0.5 * step, atol=2e-5)


def test_autoguidance_inside():
    model, guide = MixtureDenoiser(labelled=True), MixtureDenoiser(means=(0.0, 0.0))
    both = ClassifierGuidance(AutoGuidance(model, guide, 3.0), CLASSIFIER)(X, SIGMA, labels(0))
    weak = guide(X, SIGMA).x0
    wanted = weak + 3 * (of_class(0) - weak) + of_class(0) - MIXTURE(X, SIGMA).x0
    assert torch.allclose(both.x0, wanted, atol=5e-5)


@pytest.mark.parametrize("outer", [ClassifierFreeGuidance, lambda one, scale: AutoGuidance(one, MIXTURE, scale)])
def test_inside_of_other_guidance_the_gradient_is_scaled_with_the_rest(outer):
    inner = ClassifierGuidance(MixtureDenoiser(labelled=True), CLASSIFIER)
    out = outer(inner, 2.0)(X, SIGMA, labels(1))
    plain, one = MIXTURE(X, SIGMA).x0, of_class(1)
    assert torch.allclose(out.x0, plain + 2 * (2 * one - 2 * plain), atol=1e-4)
    assert torch.allclose(out.guidance * SIGMA.reshape(-1, 1, 1, 1) ** 2, 2 * (one - plain), atol=5e-5)


def test_two_classifiers_add_up():
    out = ClassifierGuidance(ClassifierGuidance(MIXTURE, CLASSIFIER, 0.5), CLASSIFIER, 0.5)(X, SIGMA, labels(0))
    assert torch.allclose(out.x0, of_class(0), atol=2e-5)
    assert torch.allclose(out.guidance * SIGMA.reshape(-1, 1, 1, 1) ** 2, of_class(0) - MIXTURE(X, SIGMA).x0, atol=2e-5)


def test_other_outputs_and_conditions_pass_through():
    class Full(MixtureDenoiser):
        def forward(self, x, sigma, cond=None):
            assert set(cond) == {"mask"}
            return Prediction(super().forward(x, sigma).x0, var=x + 1, logvar=x[:, 0, 0, 0])

    out = ClassifierGuidance(Full(), CLASSIFIER)(X, SIGMA, {**labels(0), "mask": torch.ones(8, 1, 1, 2)})
    assert torch.equal(out.var, X + 1) and torch.equal(out.logvar, X[:, 0, 0, 0])


SPEC = NetSpec((1, 2), 1, vector={"labels": 2})
NET = nn.Linear(1, 1)


def classifier_of(spec=SPEC, **process):
    kind = DDPMClassifier if process else NoisyClassifier
    return kind(NET, kind.adapt(spec), **process)


@pytest.mark.parametrize(
    ("theirs", "message"),
    [
        (classifier_of(SPEC.replace(resolution=(2, 2))), "its image size, 2x2, must be the model's, 2x1"),
        (classifier_of(SPEC.replace(image_channels=3)), "its channels, 3, must be the model's, 1"),
        (classifier_of(SPEC.replace(latent=True)), "its kind of images, latents, must be the model's, pixels"),
        (classifier_of(SPEC.with_vector("labels", 5)), "its number of classes, 5, must be the model's, 2"),
        (
            classifier_of(beta_schedule="cosine"),
            "its noise levels, 1000 from .*, must be the model's, 1000 from .* to 157.4; .*`beta_schedule`",
        ),
        (classifier_of(beta_schedule="linear", diffusion_steps=500), "its noise levels, 500 from"),
    ],
)
def test_a_classifier_that_does_not_fit_is_refused(theirs, message):
    with pytest.raises(UserError, match=f"^`classifier`: {message}") as refusal:
        ClassifierGuidance(DDPMPrecond(NET, SPEC), theirs)
    assert "\n" not in str(refusal.value)


def test_what_fits():
    same = classifier_of(beta_schedule="linear")
    ClassifierGuidance(DDPMPrecond(NET, SPEC), same)
    ClassifierGuidance(DDPMPrecond(NET, SPEC), classifier_of())
    ClassifierGuidance(DDPMPrecond(NET, SPEC.replace(vector={})), classifier_of(SPEC.with_vector("labels", 7)))
    ClassifierGuidance(MIXTURE, same)
    for scale in (math.nan, math.inf):
        with pytest.raises(UserError, match="`classifier_scale`="):
            ClassifierGuidance(MIXTURE, CLASSIFIER, scale)
    with pytest.raises(UserError, match="`guidance_interval`=2,1"):
        ClassifierGuidance(MIXTURE, CLASSIFIER, 1.0, (2.0, 1.0))
