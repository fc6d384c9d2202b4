"""Guidance: its arithmetic, its cost, how it nests, what it refuses."""

import pytest
import torch
from torch import nn

from elucid.dnnlib.errors import UserError
from elucid.training.guidance.autoguidance import AutoGuidance
from elucid.training.guidance.classifier_free import ClassifierFreeGuidance
from elucid.training.noise.schedules import Karras
from elucid.training.preconds.base import Denoiser
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.samplers.edm import EDMSampler
from elucid.training.types import NetSpec, Prediction


class ClassMeans(Denoiser):
    """D = x / (1 + sigma) + the label's class + `offset`; without a label the class counts 0. Counts its rows."""

    def __init__(self, offset=0.0, label_dim=3, image_channels=1):
        super().__init__(nn.Identity(), NetSpec((2, 2), image_channels, vector={"labels": label_dim}))
        self.offset, self.passes = offset, []

    def forward(self, x, sigma, cond=None):
        self.passes.append(len(x))
        cond = cond or {}
        shift = cond["labels"] @ torch.tensor([1.0, 2.0, 3.0]) if self.spec.label_dim else torch.zeros(1)
        assert self.spec.label_dim or "labels" not in cond
        sigma = torch.as_tensor(sigma).reshape(-1, 1, 1, 1)
        x0 = x / (1 + sigma) + shift.reshape(-1, 1, 1, 1) + self.offset
        if "mask" in cond:
            x0 = x0 * cond["mask"]
        return Prediction(x0, var=x0 + 10, logvar=x0[:, 0, 0, 0] + 20)


X = torch.randn(4, 1, 2, 2)
LABELS = {"labels": torch.eye(3)[[0, 1, 2, 2]]}
CLASS = torch.tensor([1.0, 2.0, 3.0, 3.0]).reshape(-1, 1, 1, 1)


def test_classifier_free_guidance_is_one_doubled_pass():
    plain = ClassMeans()
    out = ClassifierFreeGuidance(plain, 2.5)(X, 0.7, LABELS)
    assert torch.allclose(out.x0, X / 1.7 + 2.5 * CLASS)
    assert plain.passes == [8]
    assert torch.allclose(out.var, X / 1.7 + CLASS + 10) and out.logvar.shape == (4,)


def test_other_conditions_go_to_both_halves():
    mask = torch.rand(4, 1, 2, 2)
    out = ClassifierFreeGuidance(ClassMeans(), 2.0)(X, torch.rand(4), {**LABELS, "mask": mask})
    assert out.x0.shape == X.shape
    assert torch.allclose(
        ClassifierFreeGuidance(ClassMeans(), 2.0)(X, 1.0, {**LABELS, "mask": mask}).x0, (X / 2 + 2 * CLASS) * mask
    )


@pytest.mark.parametrize("sigma, guided", [(0.4, False), (0.5, False), (0.51, True), (2.0, True), (2.1, False)])
def test_the_interval_costs_nothing_outside(sigma, guided):
    plain = ClassMeans()
    out = ClassifierFreeGuidance(plain, 3.0, (0.5, 2.0))(X, sigma, LABELS)
    assert torch.allclose(out.x0, X / (1 + sigma) + CLASS * (3.0 if guided else 1.0))
    assert plain.passes == ([8] if guided else [4])


def test_every_image_may_have_its_own_level():
    sigma = torch.tensor([0.1, 1.0, 1.5, 3.0])
    out = ClassifierFreeGuidance(ClassMeans(), 3.0, (0.5, 2.0))(X, sigma, LABELS)
    scale = torch.tensor([1.0, 3.0, 3.0, 1.0]).reshape(-1, 1, 1, 1)
    assert torch.allclose(out.x0, X / (1 + sigma.reshape(-1, 1, 1, 1)) + scale * CLASS)


def test_scale_1_is_the_model_itself():
    plain = ClassMeans()
    assert torch.equal(ClassifierFreeGuidance(plain, 1.0)(X, 0.7, LABELS).x0, ClassMeans()(X, 0.7, LABELS).x0)
    assert plain.passes == [4]


@pytest.mark.parametrize("label_dim", [0, 3])
def test_autoguidance(label_dim):
    main, guide = ClassMeans(), ClassMeans(offset=0.5, label_dim=label_dim)
    out = AutoGuidance(main, guide, 2.0)(X, 0.7, LABELS)
    weak = X / 1.7 + 0.5 + (CLASS if label_dim else 0)
    assert torch.allclose(out.x0, weak + 2 * (X / 1.7 + CLASS - weak))
    assert (main.passes, guide.passes) == ([4], [4])


def test_guidance_nests_and_samples():
    main = ClassMeans()
    main.sigma_min, main.sigma_max = 0.1, 10.0
    nested = AutoGuidance(ClassifierFreeGuidance(main, 2.0), ClassMeans(offset=0.5), 3.0)
    weak = X / 1.7 + CLASS + 0.5
    assert torch.allclose(nested(X, 0.7, LABELS).x0, weak + 3 * (X / 1.7 + 2 * CLASS - weak))
    assert nested.spec is main.spec and (nested.sigma_min, nested.sigma_max) == (0.1, 10.0)
    denoise = BoundDenoiser(nested, LABELS)
    sigmas = Karras(3)(denoise)
    assert EDMSampler()(denoise, X * sigmas[0], sigmas, torch.randn_like).isfinite().all()


def test_what_does_not_fit_is_named():
    with pytest.raises(UserError, match="`guidance`"):
        ClassifierFreeGuidance(ClassMeans(label_dim=0), 2.0)
    with pytest.raises(UserError, match="`guidance`=nan must be a finite number"):
        ClassifierFreeGuidance(ClassMeans(), float("nan"))
    with pytest.raises(UserError, match="`guidance_interval`"):
        ClassifierFreeGuidance(ClassMeans(), 2.0, (2.0, 1.0))
    with pytest.raises(UserError, match="`guide`.*channels"):
        AutoGuidance(ClassMeans(), ClassMeans(image_channels=3), 2.0)
    with pytest.raises(UserError, match="`guide`.*classes"):
        AutoGuidance(ClassMeans(label_dim=0), ClassMeans(), 2.0)
