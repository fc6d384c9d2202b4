"""Conditions that are one number, a second noise level and a scale of guidance, in all networks."""

import copy

import pytest
import torch

from elucid.torch_utils.weights.working import working_weights
from elucid.training.config.build import make_denoiser
from elucid.training.guidance.autoguidance import AutoGuidance
from elucid.training.guidance.classifier import ClassifierGuidance
from elucid.training.guidance.classifier_free import ClassifierFreeGuidance
from elucid.training.guidance.clipping import Clipping
from elucid.training.guidance.window import CoordinateWindow
from elucid.training.preconds.base import LEAST_LEVEL, Denoiser
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.samplers.fewstep.flow_map import FlowMapSampler
from elucid.training.snapshots.snapshot import Snapshot, load_snapshot, save_snapshot
from elucid.training.snapshots.transfer import transfer
from elucid.training.types import NetSpec, Prediction
from tests import transformers
from tests.oracles import MixtureClassifier, MixtureDenoiser, step_at

U_NET = {"model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
NETWORKS = {
    **{name: {"name": name, **U_NET} for name in ("ddpmpp", "ncsnpp", "adm", "edm2", "adm_unet")},
    **{name: transformers.small(name) for name in ("dit", "jit", "ddt")},
    "points": {"name": "points", "hidden": 16},
    "points_mlp": {"name": "points_mlp", "hidden": 16},
}
NUMBERS = ("sigma_to", "guidance_scale")


def denoiser_of(name, numbers=(), precond=None, precision="fp32") -> Denoiser:
    torch.manual_seed(0)
    side = 1 if name.startswith("points") else 8
    spec = NetSpec((side, side), 2, vector={"labels": 3, **dict.fromkeys(numbers, 1)})
    denoiser = make_denoiser(NETWORKS[name], precond or {"name": "edm"}, spec, precision)
    for index, parameter in enumerate(denoiser.parameters()):  # away from the zeros of the initialisation
        if not numbers:
            torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(index))
    return denoiser.eval()


def inputs(name):
    side, generator = 1 if name.startswith("points") else 8, torch.Generator().manual_seed(1)
    return torch.randn(3, 2, side, side, generator=generator), torch.tensor([0.5, 1.0, 5.0])


def told(sigma_to=0.3, scale=2.0):
    labels = torch.eye(3)[[0, 2, 1]]
    return {"labels": labels, "sigma_to": torch.full((3, 1), sigma_to), "guidance_scale": torch.full((3, 1), scale)}


@pytest.mark.parametrize("name", [one for one in NETWORKS if not one.startswith("points")])
def test_a_network_starts_as_one_without_and_learns_them(name):
    """From the weights of one without; their maps alone are left as they were initialised, and have a gradient."""
    plain, more = denoiser_of(name), denoiser_of(name, NUMBERS)
    report = transfer(Snapshot(emas={"0": plain}), more)
    added = sorted(more.state_dict().keys() - plain.state_dict().keys())
    gains = [f"model.gains.{number}" for number in sorted(NUMBERS)] if name == "edm2" else []
    assert added == sorted([*gains, *(f"model.map_{number}.weight" for number in NUMBERS)])
    assert "left as initialised" in report and all(one in report for one in added)
    x, sigma = inputs(name)
    out = more(x, sigma, told()).x0
    assert torch.equal(out, plain(x, sigma, told()).x0)
    out.square().sum().backward()
    parameters = dict(more.named_parameters())
    learning = gains or added  # a map of unit magnitude has a gain that is 0
    assert all(float(parameters[one].grad.norm()) > 0 for one in learning)
    with torch.no_grad():
        for one in learning:
            parameters[one].add_(0.3)
    others = [told(sigma_to=0.2), told(scale=3.0)]
    assert all(not torch.allclose(more(x, sigma, told()).x0, more(x, sigma, one).x0, atol=1e-6) for one in others)


@pytest.mark.parametrize("name", NETWORKS)
def test_without_them_a_step_goes_nowhere_and_nothing_is_guided(name):
    denoiser = denoiser_of(name, NUMBERS)
    for index, parameter in enumerate(denoiser.parameters()):
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(index))
    x, sigma = inputs(name)
    labels = {"labels": told()["labels"]}
    out = denoiser(x, sigma, labels).x0
    assert torch.equal(out, denoiser(x, sigma, {**told(0.0, 1.0), "sigma_to": sigma}).x0)
    out = denoiser(x, sigma, told(0.0, 1.0)).x0
    assert not torch.allclose(out, denoiser(x, sigma, told(0.3, 1.0)).x0, atol=1e-6)
    assert not torch.allclose(out, denoiser(x, sigma, told(0.0, 2.0)).x0, atol=1e-6)


@pytest.mark.parametrize("precond", ["edm", "vp", "ve", "iddpm", "ddpm", "flow", "imm"])
def test_what_the_network_sees_is_finite(precond):
    denoiser = denoiser_of("ddpmpp", NUMBERS, {"name": precond})
    x, sigma = inputs("ddpmpp")
    for cond in (told(0.0, 0.0), told(0.5, 1.0), told(0.0, 15.0)):
        seen = denoiser.conditions(x, sigma.reshape(-1, 1, 1, 1), cond)
        assert all(seen[name].shape == (3, 1) and seen[name].isfinite().all() for name in NUMBERS)


def test_a_scale_is_seen_as_a_level_of_that_size():
    denoiser = denoiser_of("ddpmpp", NUMBERS)
    seen = denoiser.scale_seen(torch.tensor([1.0, 7.5, 0.0]).reshape(-1, 1, 1, 1)).flatten()
    assert torch.allclose(seen, torch.tensor([1.0, 7.5, LEAST_LEVEL]).log() / 4)


def test_points_see_large_numbers_as_they_see_levels():
    """With `log_noise` a second level of the same size is the same input as the first."""
    [network] = [denoiser_of("points_mlp", ("sigma_to",)).model]
    for log_noise in (False, True):
        network.log_noise = log_noise
        cond = {"labels": torch.zeros(1, 3), "sigma_to": torch.tensor([[900.0]])}
        seen = network.features(torch.zeros(1, 2, 1, 1), torch.tensor([900.0]), cond)
        assert seen[0, 2] == seen[0, -1] and float(seen[0, 2]) == pytest.approx(3.4 if log_noise else 900, abs=0.1)


def test_edm2_keeps_the_magnitude_of_their_maps():
    denoiser = denoiser_of("edm2", NUMBERS, {"name": "edm2"}).train()
    x, sigma = inputs("edm2")
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=0.1)
    for _ in range(4):  # gains that start at 0 lie one behind the other
        optimizer.zero_grad()
        denoiser(x, sigma, told()).x0.square().sum().backward()
        optimizer.step()
        denoiser.after_step(step_at())
    for number in NUMBERS:
        weight = denoiser.model.get_parameter(f"map_{number}.weight")
        norms = weight.norm(dim=1) / weight.shape[1] ** 0.5
        assert torch.allclose(norms, torch.ones_like(norms), atol=1e-3) and denoiser.model.gains[number].item() != 0


@pytest.mark.parametrize("name", [one for one in NETWORKS if not one.startswith("points")])
def test_working_weights_are_the_weights(name):
    """In bf16 casts at each use and casts kept give the same bits, of the maps of numbers as of others."""
    denoiser = denoiser_of(name, NUMBERS, precision="bf16")
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, sigma = inputs(name)
    with torch.no_grad():
        each = denoiser(x, sigma, told()).x0
        with working_weights(denoiser):
            kept = [denoiser(x, sigma, told()).x0 for _ in range(2)]
    assert torch.equal(each, kept[0]) and torch.equal(each, kept[1])


@pytest.mark.parametrize("name", NETWORKS)
def test_made_without_weights_they_can_be_drawn(name):
    spec = denoiser_of(name, NUMBERS).spec
    torch.manual_seed(3)
    direct = make_denoiser(NETWORKS[name], {"name": "edm"}, spec)
    with torch.device("meta"):
        late = make_denoiser(NETWORKS[name], {"name": "edm"}, spec)
    late.to_empty(device="cpu")
    torch.manual_seed(3)
    for module in late.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    assert all(torch.equal(value, late.state_dict()[key]) for key, value in direct.state_dict().items())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_snapshots_have_them(precision, tmp_path):
    denoiser = denoiser_of("edm2", NUMBERS, {"name": "edm2"}).requires_grad_(False)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    path = tmp_path / "network-snapshot-000000.pkl"
    save_snapshot(path, Snapshot(emas={"0": denoiser}), half=precision == "fp16")
    found = load_snapshot(path).ema
    x, sigma = inputs("edm2")
    assert found.spec == denoiser.spec
    close = {"rtol": 0, "atol": 0} if precision == "fp32" else {"rtol": 1e-2, "atol": 1e-2}
    assert torch.allclose(found(x, sigma, told()).x0, denoiser(x, sigma, told()).x0, **close)
    assert copy.deepcopy(found).spec.vector == {"labels": 3, "sigma_to": 1, "guidance_scale": 1}


class Heard(Denoiser):
    """Keeps the second levels that it is told."""

    def __init__(self):
        super().__init__(torch.nn.Identity(), NetSpec((4, 4), 1, {}, {"coords": 2}, {"labels": 2, "sigma_to": 1}))
        self.told: list[list[float]] = []

    def forward(self, x, sigma, cond=None):
        self.told.append(cond["sigma_to"].flatten().unique().tolist())
        return Prediction(x / 2)


WRAPPERS = {
    "cfg": lambda one: ClassifierFreeGuidance(one, 2.0),
    "interval": lambda one: ClassifierFreeGuidance(one, 2.0, (1.0, 3.0)),
    "autoguidance": lambda one: AutoGuidance(one, one, 2.0),
    "window": lambda one: CoordinateWindow(one, 1, 1, (2, 2)),
    "clipping": lambda one: Clipping(one, 0.9),
    "nested": lambda one: Clipping(ClassifierFreeGuidance(CoordinateWindow(one, 0, 0, (4, 4)), 2.0)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_every_wrapper_passes_a_second_level_on(name):
    heard = Heard()
    wrapped = WRAPPERS[name](heard)
    x = torch.randn(3, 1, *wrapped.spec.resolution, dtype=torch.float64)
    sigmas = torch.tensor([8.0, 2.0, 0.5, 0.0], dtype=torch.float64)
    FlowMapSampler()(BoundDenoiser(wrapped, {"labels": torch.eye(2)[[0, 1, 1]]}), x, sigmas, torch.randn_like)
    each = [[2.0], [0.5], [0.0]]
    assert heard.told == ([level for level in each for _ in range(2)] if name == "autoguidance" else each)


def test_a_classifier_passes_a_second_level_on():
    mixture = MixtureDenoiser()
    heard = Heard()
    heard.spec = mixture.spec.with_vector("sigma_to", 1)
    guided = ClassifierGuidance(heard, MixtureClassifier(mixture), 2.0)
    x = torch.randn(3, 1, 1, 2, dtype=torch.float64)
    sigmas = torch.tensor([2.0, 0.5, 0.0], dtype=torch.float64)
    FlowMapSampler()(BoundDenoiser(guided, {"labels": torch.eye(2)[[0, 1, 1]]}), x, sigmas, torch.randn_like)
    assert heard.told == [[0.5], [0.0]]
