"""Losses against what is known in closed form for Gaussian data."""

import math

import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.weights.working import working_weights
from elucid.training.config.build import make_denoiser
from elucid.training.divergence import bad_terms
from elucid.training.losses.base import Loss
from elucid.training.losses.consistency import ConsistencyLoss
from elucid.training.losses.patch import PatchLoss
from elucid.training.objective import Objective
from elucid.training.registry.components import make
from elucid.training.types import Batch, LossOutput, NetSpec
from tests.oracles import GaussianDenoiser, step_at

STEP = step_at(0, 1000)


@pytest.mark.parametrize("loss", [make("edm", "loss"), make("vp", "loss"), make("ve", "loss")], ids=["edm", "vp", "ve"])
def test_the_exact_denoiser_is_the_minimum_of_dsm(loss):
    """E|D - y|^2 = std^2 sigma^2 / (std^2 + sigma^2) per element at the exact D, so the weighted loss is 1."""
    torch.manual_seed(0)
    exact, biased = GaussianDenoiser(), GaussianDenoiser(bias=0.2)
    batch = Batch(exact.data(20000))
    mean = loss(exact, batch, STEP).loss.mean().item() / 16
    assert mean == pytest.approx(1.0, abs=0.01)
    assert loss(biased, batch, STEP).loss.mean() / 16 > mean + 0.01


def consistency_term(denoiser, seed=0, count=8000, **options):
    torch.manual_seed(seed)
    loss = ConsistencyLoss(make("edm", "loss"), epsilon_max=0.3, **options)
    terms = loss(denoiser, Batch(denoiser.data(count)), STEP).terms["consistency"]
    return terms.mean(), terms.std() / count**0.5


@pytest.mark.parametrize("options", [{}, {"reuse_start": False}, {"consistency_fraction": 0.25}])
def test_consistency_vanishes_at_the_exact_denoiser_only(options):
    """A discretised path is a martingale up to its step size; many levels make that negligible."""
    mean, error = consistency_term(GaussianDenoiser(), martingale_steps=16, **options)
    assert abs(mean) < 4 * error
    mean, error = consistency_term(GaussianDenoiser(bias=0.5), martingale_steps=16, **options)
    assert mean > 4 * error


def test_gradient_of_the_consistency_term_matches_finite_differences():
    """With the path held fixed, which carries no gradient."""
    torch.manual_seed(0)
    denoiser = GaussianDenoiser(bias=0.3).double()
    x, sigma = torch.randn(64, 1, 4, 4, dtype=torch.float64), torch.rand(64, 1, 1, 1, dtype=torch.float64) + 0.3
    ends = torch.randn(128, 1, 4, 4, dtype=torch.float64)
    low = torch.cat([sigma, sigma]) * 0.8

    def term():
        x0 = denoiser(x, sigma).x0
        return ConsistencyLoss.consistency(denoiser, ends, low, x0, {}).sum()

    term().backward()
    values = []
    for change in (1e-5, -1e-5):
        with torch.no_grad():
            denoiser.bias += change
            values.append(term())
            denoiser.bias -= change
    assert float(denoiser.bias.grad) == pytest.approx(float((values[0] - values[1]) / 2e-5), rel=1e-6)


def test_a_fraction_leaves_the_expected_gradient_as_it_is():
    gradients = []
    for fraction in (1.0, 0.1):
        denoiser = GaussianDenoiser(bias=0.5)
        torch.manual_seed(1)
        batch = Batch(denoiser.data(20000))
        loss = ConsistencyLoss(make("edm", "loss"), epsilon_max=0.3, consistency_fraction=fraction)
        loss(denoiser, batch, STEP).terms["consistency"].mean().backward()
        gradients.append(float(denoiser.bias.grad))
    assert gradients[1] == pytest.approx(gradients[0], rel=0.2)


@pytest.mark.parametrize(("reuse", "rows"), [(True, [3, 6, 6, 6, 6, 6]), (False, [3, 6, 6, 6, 6, 6, 6])])
def test_both_paths_run_batched_and_with_the_whole_condition(reuse, rows):
    """One evaluation of the batch, 5 path steps of 2 paths (the first may reuse that one), one of both ends."""
    seen = []

    class Recorder(GaussianDenoiser):
        def forward(self, x, sigma, cond=None):
            seen.append((len(x), torch.is_grad_enabled(), self.training, cond))
            return super().forward(x, sigma, cond)

    denoiser = Recorder()
    batch = Batch(denoiser.data(3), {"labels": torch.eye(3), "augment": torch.randn(3, 9)})
    ConsistencyLoss(make("edm", "loss"), reuse_start=reuse)(denoiser, batch, STEP)
    assert [count for count, *_ in seen] == rows
    assert [grad for _, grad, *_ in seen] == [True, *[False] * (len(rows) - 2), True]
    assert all(training for _, _, training, _ in seen)
    for name, value in batch.cond.items():
        assert all(torch.equal(cond[name], value.repeat(count // 3, 1)) for count, _, _, cond in seen)


@pytest.mark.parametrize(("precision", "path"), [("fp32", "bf16"), ("fp32", None), ("bf16", None), ("bf16", "fp32")])
def test_the_paths_run_in_a_precision_of_their_own(precision, path):
    """What carries a gradient does not; the ends of the paths change by their rounding."""
    torch.manual_seed(0)
    network = {"name": "ddpmpp", "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "dropout": 0.0}
    denoiser = make_denoiser(network, {"name": "edm"}, NetSpec((8, 8), 3), precision)
    for parameter in denoiser.parameters():  # away from the zeros of the initialisation
        torch.nn.init.normal_(parameter, std=0.1)
    seen, ends = [], []
    denoiser.model.register_forward_pre_hook(lambda _, inputs: seen.append((inputs[0].dtype, torch.is_grad_enabled())))
    batch = Batch(torch.randn(4, 3, 8, 8))
    for own in (None, path):
        loss = ConsistencyLoss(make("edm", "loss"), path_precision=own, epsilon_max=0.5)
        loss.consistency = lambda d, x, *args, to=loss.consistency: ends.append(x) or to(d, x, *args)
        torch.manual_seed(1)
        seen.clear()
        with working_weights(denoiser):
            loss(denoiser, batch, STEP).loss.sum().backward()
    types = {"fp32": torch.float32, "bf16": torch.bfloat16}
    assert {dtype for dtype, grad in seen if grad} == {types[precision]}
    assert {dtype for dtype, grad in seen if not grad} == {types[path or precision]}
    assert denoiser.precision == precision and len(seen) == 6
    error = float((ends[1] - ends[0]).norm() / ends[0].norm())
    assert error == 0 if path is None else 1e-8 < error < 1e-2


@pytest.mark.parametrize(("batch_size", "fraction"), [(1, 0.1), (3, 0.05), (1, 1.0), (4, 0.25), (20, 0.1), (7, 0.2)])
def test_the_share_of_images_and_its_weight_make_the_whole_on_average(batch_size, fraction):
    """Also where the share is less than one image; then the cost is that share too."""
    loss = ConsistencyLoss(make("edm", "loss"), consistency_fraction=fraction)
    shares = [loss.subset_and_weight(batch_size, step_at(nimg, 10**6)) for nimg in range(20000)]
    assert sum(count * weight for count, weight in shares) / len(shares) == pytest.approx(batch_size, rel=0.1)
    wanted = fraction * batch_size
    mean = sum(count for count, _ in shares) / len(shares)
    assert mean == pytest.approx(wanted if wanted < 1 else math.ceil(wanted), rel=0.1)


def test_a_step_without_an_image_for_the_term_is_the_base_loss():
    denoiser, loss = GaussianDenoiser(bias=0.5), ConsistencyLoss(make("edm", "loss"), consistency_fraction=0.1)
    batch = Batch(denoiser.data(1))
    step = next(
        step for step in (step_at(nimg, 10**6) for nimg in range(100)) if loss.subset_and_weight(1, step)[0] == 0
    )
    out = loss(denoiser, batch, step)
    assert torch.equal(out.terms["loss"], out.terms["dsm"]) and out.terms["consistency"].tolist() == [0]
    out.loss.sum().backward()
    assert denoiser.bias.grad != 0


class Returns(Loss):
    def __init__(self, make):
        super().__init__()
        self.make = make

    def forward(self, denoiser, batch, step):
        return self.make(denoiser(batch.images, 1.0).x0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x0: x0.mean(), "returned Tensor; return elucid.training.types.LossOutput"),
        (lambda x0: LossOutput(x0.mean()), r"returned shape \(\); expected one value per image"),
        (lambda x0: LossOutput(x0), r"returned shape \(3, 1, 4, 4\); expected one value per image"),
        (lambda x0: LossOutput(x0.sum((1, 2, 3)).detach()), "has no gradient"),
        (lambda x0: LossOutput(3.0), r"returned 'loss' as float; expected a tensor \[B\]"),
        (lambda x0: LossOutput(x0.sum((1, 2, 3)), {"far": 3.0}), r"returned 'far' as float"),
        (lambda x0: LossOutput(x0.sum((1, 2, 3)), {"loss": 3.0}), r"returned 'loss' as float"),
    ],
)
def test_a_wrong_loss_is_named(make, message):
    objective = Objective(GaussianDenoiser(), Returns(make))
    with pytest.raises(UserError, match=f"loss Returns.*{message}|loss Returns {message}"):
        objective(Batch(torch.randn(3, 1, 4, 4)), STEP)


def test_terms_carry_no_gradient_out_of_the_objective():
    """Processes would wait for the gradients of what a term alone depends on."""
    objective = Objective(GaussianDenoiser(), Returns(lambda x0: LossOutput(x0.sum((1, 2, 3)), {"far": x0.mean()})))
    out = objective(Batch(torch.randn(3, 1, 4, 4)), STEP)
    assert out.loss.requires_grad and not out.terms["far"].requires_grad


def test_a_loss_that_is_not_finite_is_named():
    out = LossOutput(torch.tensor([1.0, float("nan")]), {"good": torch.ones(2), "bad": torch.tensor([0, float("nan")])})
    objective = Objective(GaussianDenoiser(), Returns(None))
    objective.loss.good, objective.loss.bad = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    assert "loss Returns is not finite (terms: bad); all parameters and gradients" in bad_terms(out, objective)
    objective.loss.bad.grad = torch.tensor([0, float("inf")])
    assert "the first non-finite gradient is that of loss.bad" in bad_terms(out, objective)
    objective.loss.bad.data[0] = float("nan")
    assert "the first non-finite parameter is loss.bad" in bad_terms(out, objective)
    assert not bad_terms(LossOutput(torch.ones(2)), objective)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"martingale_steps": 1}, "martingale_steps=1"),
        ({"epsilon_min": 1.0}, "epsilon_min=1.0"),
        ({"sigma_floor": 0.0}, "sigma_floor=0.0 must be above 0"),
        ({"rho": -7}, "rho=-7 must be above 0"),
        ({"martingale_lambda": -1.0}, "martingale_lambda=-1.0 must not be negative"),
        ({"consistency_fraction": 0}, "consistency_fraction=0"),
        ({"path_mode": "test"}, "path_mode='test'"),
        ({"path_precision": "fp8"}, "path_precision='fp8'"),
    ],
)
def test_bad_options_of_the_consistency_loss(options, message):
    with pytest.raises(UserError, match=message):
        ConsistencyLoss(make("edm", "loss"), **options)


class Squared(Loss):
    """A loss that says nothing about what to log."""

    def forward(self, denoiser, batch, step):
        error = (denoiser(batch.images, torch.ones(len(batch)), batch.cond).x0 - batch.images) ** 2
        return LossOutput(error.sum(dim=(1, 2, 3)))


@pytest.mark.parametrize("progressive", [None, True], ids=["whole", "crops"])
def test_a_loss_without_terms_is_logged_per_element_of_what_it_saw(progressive):
    denoiser = GaussianDenoiser(bias=0.2).requires_grad_(True)
    loss = Squared() if progressive is None else PatchLoss(Squared(), progressive=True)
    out = Objective(denoiser, loss)(Batch(denoiser.data(8)), STEP)
    side = 4 if progressive is None else 1
    torch.testing.assert_close(out.terms["loss"], out.loss.detach() / side**2)
    critic = STEP.replace(phase="critic")
    assert not Objective(denoiser, loss)(Batch(denoiser.data(8)), critic).terms, "of other phases it is not a sum"
