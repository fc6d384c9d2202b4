"""The laboratory: densities against their closed forms, what a good and a wrong model show there."""

import json

import pytest
import torch
from PIL import Image

import elucid
from elucid.api.evaluations.toy import toy
from elucid.dnnlib.errors import UserError
from elucid.evaluation.toy.densities import DENSITIES, STD, density
from elucid.evaluation.toy.measures import quality, score_errors
from elucid.training.networks.points.point_net import PointNet
from elucid.training.noise.schedules import Karras
from elucid.training.preconds.base import Denoiser
from elucid.training.samplers.edm import EDMSampler
from elucid.training.types import NetSpec, Prediction
from tests import scripts

FAST = {"train_steps": 20, "batch": 64, "num": 100, "steps": 4, "set": {"network.hidden": 16}}


class Exact(Denoiser):
    """The denoiser of a mixture, perhaps with a score that is too long."""

    def __init__(self, mixture, factor: float = 1.0):
        super().__init__(torch.nn.Identity(), NetSpec((1, 1), 2))
        self.mixture, self.factor = mixture, factor

    def forward(self, x, sigma, cond=None):
        sigma = float(torch.as_tensor(sigma).reshape(-1)[0])
        pull = self.mixture.denoised(x.flatten(1), sigma).reshape(x.shape) - x
        return Prediction((x + self.factor * pull).to(x.dtype))


@pytest.mark.parametrize("name", DENSITIES)
def test_scores_are_gradients_and_finite_far_away(name):
    mixture = density(name)
    points, classes = mixture.sample(50, torch.Generator().manual_seed(0))
    assert set(classes.tolist()) <= set(range(mixture.num_classes))
    for sigma in (0.02, 0.5):
        x = (points + sigma).requires_grad_()
        [gradient] = torch.autograd.grad(mixture.log_density(x, sigma).sum(), x)
        assert torch.allclose(mixture.score(x.detach(), sigma), gradient, rtol=1e-8, atol=1e-8)
    far = torch.tensor([[1e3, -1e3], [0.0, 50.0]])
    assert mixture.score(far, 0.002).isfinite().all() and mixture.log_density(far, 0.002).isfinite().all()


@pytest.mark.parametrize("name", DENSITIES)
def test_samples_have_the_moments_of_the_mixture(name):
    points, _ = density(name).sample(20_000, torch.Generator().manual_seed(1))
    assert points.mean(0).abs().max() < 0.02
    assert points.square().mean().sqrt() == pytest.approx(STD, rel=0.02)


def test_the_density_integrates_to_one():
    mixture, reach, count = density("moons"), 2.0, 160
    places = (torch.arange(count, dtype=torch.float64) + 0.5) / count * 2 * reach - reach
    grid = torch.stack(torch.meshgrid(places, places, indexing="ij"), dim=-1).reshape(-1, 2)
    assert float(mixture.log_density(grid, 0.05).exp().sum()) * (2 * reach / count) ** 2 == pytest.approx(1, rel=1e-6)


@torch.no_grad()
def test_the_exact_denoiser_samples_the_density_and_a_wrong_one_does_not():
    """By the project's sampler; the measures tell them apart."""
    mixture = density("moons")
    found, errors = {}, {}
    for name, factor in (("exact", 1.0), ("wrong", 0.8)):
        model = Exact(mixture, factor)
        sigmas = Karras(num_steps=18, sigma_min=0.002, sigma_max=5)(model, 18)
        x = torch.randn(1000, 2, 1, 1, generator=torch.Generator().manual_seed(0)).double() * sigmas[0]
        found[name] = quality(mixture, EDMSampler()(model, x, sigmas, torch.randn_like).flatten(1))
        errors[name] = score_errors(model, mixture, {}, [0.1, 1.0], count=500)
    true = quality(mixture, mixture.sample(1000, torch.Generator().manual_seed(5))[0])
    assert true.off < 0.01 and found["exact"].off < 0.02 < found["wrong"].off
    assert found["exact"].likelihood == pytest.approx(true.likelihood, abs=0.1)
    assert found["exact"].reached > 0.97 and found["exact"].deviation == pytest.approx(1, abs=0.05)
    assert max(errors["exact"]) < 1e-4 and errors["wrong"] == pytest.approx([0.2, 0.2], rel=1e-3)


def test_the_network_is_the_gradient_of_its_density():
    torch.manual_seed(0)
    net = PointNet(1, 2, 2, vector={"labels": 3}, hidden=16, num_layers=3)
    net.gain.data.fill_(0.7)
    cond, sigma = {"labels": torch.eye(3)}, torch.tensor([0.1, 0.5, 2.0])
    x = torch.randn(3, 2, 1, 1, requires_grad=True)
    [score] = torch.autograd.grad(net.log_density(x, sigma, cond).sum(), x)
    total = (sigma**2 + 0.25).reshape(-1, 1, 1, 1)
    out = net(x / total.sqrt(), sigma.log() / 4, cond)
    levels = sigma.reshape(-1, 1, 1, 1)
    x0 = 0.25 / total * x + levels * 0.5 / total.sqrt() * out
    assert torch.allclose((x0 - x) / levels**2, score, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="1x1 pixels"):
        PointNet(8, 3, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "uncertainty(edm)", "density_name": "spiral"},
        {"precond": "cdm", "density_name": "moons"},
        {"precond": "vp", "sampler": "dpmpp2m", "density_name": "ring"},
        {"precond": "iddpm", "arch": "points_mlp", "density_name": "ring"},
        {"precond": "ddpm", "loss": "hybrid", "arch": "points_mlp", "sampler": "ddpm", "density_name": "moons"},
        {"guidance": ["cfg", "interval", "autoguidance"], "label": 1},
        {"guidance": "autoguidance", "set": {"guide.steps": 3, "guide.hidden": 8, "network.hidden": 16}},
    ],
)
def test_parts_combine(options):
    result = toy(**{**FAST, **options})
    kinds = options.get("guidance", ["none"])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    assert [row[0] for row in result.tables[0].rows] == kinds and 0 <= result.value <= 1
    assert all(error > 0 for _, error in result.tables[1].rows)


def test_a_loss_of_ones_own_is_tried_by_one_command(tmp_path):
    """A wrong one is seen in the score; the picture and the result lie beside each other."""
    (tmp_path / "mine.py").write_text(
        "from elucid.training.losses.dsm import DSM\n"
        "class Half(DSM):\n"
        "    def evaluate(self, denoiser, batch, sigma=None, noise=None):\n"
        "        batch.images = batch.images * 0.5\n"
        "        return super().evaluate(denoiser, batch, sigma, noise)\n"
    )
    flags = ["--density=moons", "--train_steps=250", "--batch=128", "--num=200", "--steps=6", "--set=network.hidden=32"]
    found = {}
    for name, loss in (("right", []), ("wrong", [f"--loss={tmp_path / 'mine.py'}:Half"])):
        scripts.run("evaluate.py", "toy", *flags, *loss, f"--dest={tmp_path / name}.json")
        found[name] = json.loads((tmp_path / f"{name}.json").read_text())
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size == (420, 464)
    errors = {name: dict(one["tables"][1]["rows"])[0.5] for name, one in found.items()}
    assert errors["right"] < 0.35 and 1.5 * errors["right"] < errors["wrong"]
    assert found["right"]["value"] < found["wrong"]["value"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density_name": "star"}, "`density`=star"),
        ({"guidance": "strong"}, "`guidance`=strong"),
        ({"label": 2}, "`label`=2"),
        ({"dest": "toy.png"}, "must end in .json"),
        ({"guidance": []}, "`guidance` is empty"),
        ({"num": 1}, "`num`=1"),
        ({"train_steps": 0}, "`train_steps`=0"),
        ({"label_dropout": 5}, "`label_dropout`=5"),
        ({"precond": "iddpm"}, "use `arch`=points_mlp"),
        ({"loss": "patch(edm)", "arch": "points_mlp"}, "images of 1x1 are too small for patches"),
        ({"guidance": "autoguidance", "set": {"guide.steps": 0}}, "guide.steps=0"),
        ({"guidance": "autoguidance", "set": {"guide.nope": 0}}, "no option 'nope'"),
        ({"guidance": "cfg", "guidance_interval": [0.1, 1]}, "`guidance_interval` has no effect"),
        ({"arch": "ddpmpp"}, "1x1|attn|channels|divisible"),
        ({"precond": "classifier"}, "classifier|loss"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        toy(**{**FAST, **options})


@pytest.mark.parametrize("precond", ["vp", "ddpm"])
def test_levels_that_are_counted_to_1000_are_learned(precond):
    """The network sees their logarithm; as they are they drown the points."""
    errors = []
    for more in ({}, {"network.log_noise": False}):
        how = {"train_steps": 300, "batch": 256, "num": 100, "steps": 4, "set": {"network.hidden": 32, **more}}
        errors.append(dict(toy("ring", precond=precond, **how).tables[1].rows)[0.5])
    assert errors[0] < 0.4 and errors[1] > 0.9


def test_one_thread_for_all_and_the_same_number_afterwards():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        first = toy("ring", **FAST)
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        assert toy("ring", **FAST) == first
    finally:
        torch.set_num_threads(before)


def test_it_leaves_random_numbers_alone_and_takes_another_average():
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    result = toy("ring", **{**FAST, "set": ["ema.name=halflife", "ema.halflife_mimg=[0.001]", "network.hidden=16"]})
    assert torch.equal(torch.rand(2), wanted) and result.about["options"]["ema"]["name"] == "halflife"


def test_it_is_part_of_the_python_api():
    assert elucid.toy is toy
