"""Losses of continuous time: derivatives beside dropout, bf16, compilation and checkpoints, and what has no error."""

import math

import pytest
import torch
from torch import nn

from elucid.dnnlib.errors import UserError
from elucid.torch_utils.compilation import compiled
from elucid.torch_utils.rng import random_state
from elucid.torch_utils.weights.working import working_weights
from elucid.training.config.build import make_denoiser
from elucid.training.losses.base import require_no_forward_derivative
from elucid.training.losses.fewstep.derivative import arc, with_derivative
from elucid.training.losses.fewstep.scm import step_of, trigflow
from elucid.training.networks.checkpointing import checkpoint_regions
from elucid.training.networks.regions import regions
from elucid.training.objective import Objective
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.preconds.fewstep.trigflow import TrigFlowPrecond
from elucid.training.preconds.flow import FlowPrecond
from elucid.training.registry.components import make
from elucid.training.types import Batch, NetSpec, Prediction, Step
from tests import transformers

CPU = torch.device("cpu")
U_NET = {"name": "ddpmpp", "model_channels": 8, "channel_mult": [1, 1], "num_blocks": 1, "attn_resolutions": [4]}
DIT = {**transformers.small("dit"), "depth": 1}
SPEC = NetSpec((8, 8), 1, vector={"labels": 3})
LABELS = torch.eye(3)[[0, 2, 1, 0]]
LOSSES = {
    "mean_flow": ("flow", {"name": "mean_flow", "omega": 2.0, "kappa": 0.3, "label_dropout": 0.2}),
    "improved_mean_flow": ("flow", {"name": "improved_mean_flow", "ratio": 1.0}),
    "scm": ("edm", {"name": "uncertainty", "features": 16, "base": {"name": "scm", "warmup": 0}}),
    "trigflow": ("trigflow", {"name": "scm", "warmup": 0}),
}


def made(name: str, network: dict = U_NET, precision: str = "fp32", **options):
    """A denoiser away from its first zeros, and the loss."""
    precond, component = LOSSES[name]
    loss = make({**component, **options}, "loss")
    torch.manual_seed(0)
    denoiser = make_denoiser({"dropout": 0.0, **network}, {"name": precond}, loss.adapt(SPEC), precision)
    for parameter in denoiser.parameters():
        nn.init.normal_(parameter, std=0.1)
    loss.check(denoiser)
    return denoiser, loss


def gradient(denoiser, loss) -> torch.Tensor:
    """The gradients of a step with the same draws, after another number."""
    torch.manual_seed(1)
    images = torch.rand(4, 1, 8, 8) * 2 - 1
    denoiser.zero_grad(set_to_none=True)
    with working_weights(Objective(denoiser, loss)):
        total = loss(denoiser, Batch(images, {"labels": LABELS}), Step(5, 40, 1000, 0, 4)).loss.sum()
        total.backward()
    return torch.cat([total.detach().reshape(1), *(one.grad.flatten() for one in denoiser.parameters())])


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize(("kind", "network"), [("flow", U_NET), ("edm", DIT)])
def test_value_and_derivative_have_one_dropout_mask(kind, network):
    denoiser, _ = made("mean_flow" if kind == "flow" else "scm", {**network, "dropout": 0.3}, "fp64")
    denoiser = denoiser.double().train()
    x, dx = torch.randn(2, 4, 1, 8, 8, dtype=torch.float64)
    t, cond = torch.tensor([0.3, 0.6, 0.9, 1.0]).double().reshape(-1, 1, 1, 1), {"labels": LABELS}
    r = t / 3

    def function(x, t):
        if kind == "flow":
            return denoiser.velocity(x, t, r, cond)
        return trigflow(denoiser, x, t, cond, 0.5)

    move = {} if kind == "flow" else {"move": arc, "step": step_of(t), "end": math.inf}
    found = {}
    for how in ("forward", "difference"):
        torch.manual_seed(0)
        found[how] = *with_derivative(function, x, t, dx, how, **move), random_state(CPU)["cpu"]
    (value, slope, after), (same, difference, later) = found.values()
    assert apart(same, value) < 1e-12 and torch.equal(after, later)
    assert apart(difference[:3], slope[:3]) < 1e-4 and apart(difference, slope) < 1e-2  # one-sided at the end
    torch.manual_seed(1)
    assert apart(function(x, t), value) > 0.01, "another mask"


def test_differences_stay_in_range():
    asked = []

    def cube(x, t):
        asked.append(t)
        return x * t**3

    t = torch.tensor([1e-3, 0.5, 0.9995, 1.0], dtype=torch.float64).reshape(-1, 1, 1, 1)
    x, dx = torch.rand(2, 4, 1, 2, 2, dtype=torch.float64)
    _, slope = with_derivative(cube, x, t, dx, "difference", rate=2.0)
    assert max(float(one.max()) for one in asked) <= 1 and min(float(one.min()) for one in asked) > 0
    assert apart(slope, 2 * (dx * t**3 + 3 * x * t**2)) < 2e-3


class Point(nn.Module):
    """D of data that are one point, that point, but for an error."""

    sigma_data, uncertainty, dtype, training, precision = 0.5, None, torch.float64, False, "fp64"

    def __init__(self, image):
        super().__init__()
        self.image, self.error = image, 0.0

    def forward(self, x, sigma, cond=None):
        share = self.error / (1 + torch.as_tensor(sigma).reshape(-1, 1, 1, 1) ** 2)
        return Prediction(self.image + share * (x - self.image))


class PointFlow(FlowPrecond):
    """u of data that are one point, (x_t - y) / t wherever it ends, but for an error."""

    def __init__(self, image):
        super().__init__(nn.Identity(), NetSpec((2, 2), 1, vector={"sigma_to": 1}), "fp64")
        self.image, self.error = image, 0.0

    def velocity(self, x, t, t_to=None, cond=None):
        return (x - self.image) / t + self.error * x


@pytest.mark.parametrize("derivative", ["forward", "difference"])
@pytest.mark.parametrize("name", ["scm", "scd", "mean_flow", "improved_mean_flow"])
def test_the_exact_map_has_no_error(name, derivative):
    """Of a single point; without the tangent's warm-up, which changes the minimum of sCM."""
    image = torch.randn(1, 1, 2, 2, dtype=torch.float64)
    batch = Batch(image.expand(64, -1, -1, -1), {})
    torch.manual_seed(0)
    if name.startswith("sc"):
        denoiser = Point(image)
        options = {"teacher": "model.pkl"} if name == "scd" else {}
        loss = make({"name": name, "derivative": derivative, "warmup": 0, **options}, "loss")
        loss.teacher = denoiser
    else:
        denoiser = PointFlow(image)
        loss = make({"name": name, "derivative": derivative, "P_mean": 0.0, "P_std": 1.0}, "loss")
    out = loss(denoiser, batch, Step(3, 1, 10, 0, 8))
    value = out.terms["tangent"] if name.startswith("sc") else out.terms["squares"].sqrt()
    assert float(value.max()) < (1e-8 if derivative == "forward" else 1e-3)
    denoiser.error = 0.5
    out = loss(denoiser, batch, Step(3, 1, 10, 0, 8))
    assert float(out.terms["tangent" if name.startswith("sc") else "squares"].mean()) > 0.05


@pytest.mark.parametrize("name", list(LOSSES))
def test_differences_train_alike(name):
    options = {"base": {**LOSSES[name][1]["base"], "derivative": "difference"}} if name == "scm" else {}
    other = made(name, **(options or {"derivative": "difference"}))
    assert 0 < apart(gradient(*other), gradient(*made(name))) < 0.01


@pytest.mark.parametrize("name", ["mean_flow", "trigflow"])
def test_bf16_is_close(name):
    assert 1e-4 < apart(gradient(*made(name, precision="bf16")), gradient(*made(name))) < 0.1


@pytest.mark.parametrize(("name", "network"), [("mean_flow", U_NET), ("scm", DIT)], ids=["ddpmpp", "dit"])
def test_compiled_and_checkpointed(name, network):
    """The gradient is the same, while calls without derivatives are compiled."""
    denoiser, loss = made(name, network)
    plain, said = gradient(denoiser, loss), []
    torch._dynamo.reset()
    with compiled(regions(denoiser.model), CPU, said.append, backend="eager"):
        assert apart(gradient(denoiser, loss), plain) < 1e-5 and not said
    torch._dynamo.reset()
    checkpoint_regions(denoiser.model)
    assert torch.equal(gradient(denoiser, loss), plain)


def test_trigflow_is_edm_with_another_sign():
    sigma = torch.tensor([0.0, 0.01, 0.5, 80.0], dtype=torch.float64).reshape(-1, 1, 1, 1)
    ours = TrigFlowPrecond(nn.Identity(), SPEC).coefficients(sigma)
    edm = EDMPrecond(nn.Identity(), SPEC).coefficients(sigma)
    t = ours.c_noise
    assert torch.allclose(ours.c_skip, t.cos() ** 2) and torch.allclose(ours.c_out, -0.5 * t.sin())
    assert torch.allclose(ours.c_in, t.cos() / 0.5) and torch.equal(ours.c_out, -edm.c_out)
    x, cond = torch.randn(4, 1, 8, 8, dtype=torch.float64), {}

    class Net(nn.Module):
        def forward(self, x, c_noise, cond):
            return x.sin()

    denoiser = TrigFlowPrecond(Net(), NetSpec((8, 8), 1), "fp64")
    found = trigflow(denoiser, x[1:], t[1:], cond, 0.5)
    assert torch.allclose(found, (x[1:] / 0.5).sin())


@pytest.mark.parametrize(
    ("component", "precond", "words"),
    [
        ({"name": "mean_flow"}, {"name": "edm"}, "`precond`=flow"),
        ({"name": "mean_flow"}, {"name": "flow", "prediction": "x"}, "precond.prediction=v"),
        ({"name": "improved_mean_flow"}, {"name": "flow", "path": "cosine"}, "precond.path=linear"),
        ({"name": "uncertainty", "base": {"name": "mean_flow"}}, {"name": "flow"}, "weights itself"),
        ({"name": "scm"}, {"name": "iddpm"}, "any noise level"),
        ({"name": "scm"}, {"name": "flow", "prediction": "x"}, "noise level 0"),
        ({"name": "scd"}, {"name": "edm"}, "`teacher`"),
        ({"name": "scm", "derivative": "exact"}, {"name": "edm"}, "loss.derivative='exact'"),
        ({"name": "scm", "norm": "l1"}, {"name": "edm"}, "loss.norm='l1'"),
        ({"name": "scm", "c": 0.0}, {"name": "edm"}, "loss.c=0"),
        ({"name": "mean_flow", "tr_sampler": "v2"}, {"name": "flow"}, "loss.tr_sampler='v2'"),
        ({"name": "mean_flow", "ratio": 1.5}, {"name": "flow"}, "loss.ratio=1.5"),
        ({"name": "mean_flow", "interval": [0.8, 0.1]}, {"name": "flow"}, "loss.interval"),
        ({"name": "mean_flow", "loss_type": "l3"}, {"name": "flow"}, "loss.loss_type='l3'"),
        ({"name": "mean_flow", "norm_eps": 0.0}, {"name": "flow"}, "loss.norm_eps=0"),
        ({"name": "mean_flow", "kappa": 1.0}, {"name": "flow"}, "loss.kappa=1"),
    ],
)
def test_mistakes(component, precond, words):
    def build():
        loss = make(component, "loss")
        loss.check(make_denoiser(U_NET, precond, loss.adapt(SPEC)))

    with pytest.raises(UserError) as caught:
        build()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_guidance_needs_labels():
    loss = make({"name": "mean_flow", "omega": 2.0}, "loss")
    with pytest.raises(UserError, match="`cond`=1"):
        loss.check(make_denoiser(U_NET, {"name": "flow"}, loss.adapt(NetSpec((8, 8), 1))))
    with pytest.raises(UserError, match=r"loss\.label_dropout"):
        loss.check(make_denoiser({**U_NET, "label_dropout": 0.1}, {"name": "flow"}, loss.adapt(SPEC)))


@pytest.mark.parametrize(("sampler", "tied"), [("v0", 0.25), ("v1", 0.25 + 0.75 * 0.0665)])
def test_share_of_tied_times(sampler, tied):
    """v1 ties further pairs, those drawn in the wrong order: t below r with probability 0.0665 at its numbers."""
    torch.manual_seed(0)
    options = {} if sampler == "v0" else {"P_mean": -0.6, "P_std": 1.6, "P_mean_r": -4.0, "P_std_r": 1.6}
    t, r = make({"name": "mean_flow", "tr_sampler": sampler, **options}, "loss").pairs.draw(50_000, CPU)
    assert bool((r <= t).all()) and float((r == t).float().mean()) == pytest.approx(tied, abs=0.01)


def test_shared_out_weights_need_differences():
    for component in ({"name": "mean_flow"}, {"name": "uncertainty", "base": {"name": "scm"}}):
        inner = component.get("base", component)
        with pytest.raises(UserError, match=r"`shard`.*loss\.derivative=difference"):
            require_no_forward_derivative(make(component, "loss"))
        inner["derivative"] = "difference"
        require_no_forward_derivative(make(component, "loss"))
    require_no_forward_derivative(make("edm", "loss"))


def test_differences_are_of_whole_precision():
    """In bf16 a difference of neighbours is noise: both ends are computed in float32."""
    torch.manual_seed(0)
    spec = NetSpec((8, 8), 1)
    network = {"name": "ddpmpp", "model_channels": 16, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
    denoiser = make_denoiser({**network, "dropout": 0.0}, {"name": "edm"}, spec)
    for parameter in denoiser.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    x, dx, sigma = (
        torch.randn(3, 1, 8, 8),
        torch.randn(3, 1, 8, 8),
        torch.tensor([0.1, 0.5, 2.0]).reshape(-1, 1, 1, 1),
    )

    def slope(precision, how):
        denoiser.precision = precision
        function = lambda x, t: denoiser(x, t).x0  # noqa: E731
        return with_derivative(function, x, sigma, dx, how, end=float("inf"), denoiser=denoiser)[1]

    exact = slope("fp32", "forward")
    assert (slope("bf16", "difference") - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("outer", ["alignment", "adversarial"])
def test_losses_that_look_at_images_refuse_one_that_predicts_none(outer):
    loss = make({"name": outer, "base": {"name": "mean_flow"}}, "loss")
    network = {"name": "ddpmpp", "model_channels": 16, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": []}
    denoiser = make_denoiser(network, {"name": "flow"}, NetSpec((8, 8), 1, vector={"sigma_to": 1}))
    with pytest.raises(UserError, match=f"{outer} .* mean_flow .*leave {outer} out"):
        loss.check(denoiser)
