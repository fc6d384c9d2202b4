"""The plane's mixture, network and guided paths equal the reference's."""

import pytest
import torch

from elucid.evaluation.toy.mixture import Mixture
from elucid.training.guidance.autoguidance import AutoGuidance
from elucid.training.networks.points.point_net import PointNet
from elucid.training.noise.schedules import Karras
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.samplers.edm import EDMSampler
from elucid.training.types import NetSpec
from tests import vectors

CASES = vectors.cases("edm2/toy*")


def tensors_of(path):
    case, arrays = vectors.load(path)
    return case, {name: torch.from_numpy(array) for name, array in arrays.items()}


def mixtures(there: dict) -> dict[str, Mixture]:
    parts = {name: [there[f"{name}:{part}"] for part in ("phi", "mu", "Sigma")] for name in "AB"}
    alone = {name: Mixture(*one) for name, one in parts.items()}
    # How much of the whole a class is, is not recorded; the density of the whole says it.
    of_class = [one.log_density(there["points"], 1.0).exp() for one in alone.values()]
    shares = (there["AB:logp:1.0"].double().exp() - of_class[1]) / (of_class[0] - of_class[1])
    share = float(shares.median())
    assert 0.45 < share < 0.55
    weights = torch.cat([alone["A"].weights * share, alone["B"].weights * (1 - share)])
    both = [torch.cat(pair) for pair in zip(parts["A"][1:], parts["B"][1:], strict=True)]
    return {**alone, "AB": Mixture(weights, *both)}


def denoiser(case: dict, options: str, parameters: str) -> EDMPrecond:
    size = case[options]
    net = PointNet(1, 2, 2, hidden=size["hidden_dim"], num_layers=size["num_layers"])
    vectors.fill(net, case["salt"], {name: shape or [1] for name, shape in case[parameters].items()})
    return EDMPrecond(net, NetSpec((1, 1), 2)).eval()


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_densities(path):
    _, there = tensors_of(path)
    for name, mixture in mixtures(there).items():
        for key in (key for key in there if key.startswith(f"{name}:logp:")):
            sigma = float(key.split(":")[2])
            assert vectors.relative_error(mixture.log_density(there["points"], sigma), there[key]) < 1e-5, key
            score = mixture.score(there["points"], sigma)
            assert vectors.relative_error(score, there[f"{name}:score:{sigma}"]) < 1e-5, key


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_network(path):
    case, there = tensors_of(path)
    model, points = denoiser(case, "network", "parameters"), there["points"][:, :, None, None]
    for sigma in (0.02, 0.5, 5.0):
        levels = torch.full((len(points),), sigma)
        log_density = model.model.log_density(points, levels, {})
        assert vectors.relative_error(log_density, there[f"net:logp:{sigma}"]) < 1e-5
        score = (model(points, sigma).x0 - points).flatten(1) / sigma**2
        assert vectors.relative_error(score, there[f"net:score:{sigma}"]) < 1e-5


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@torch.no_grad()
def test_guided_paths(path):
    case, there = tensors_of(path)
    main, guide = denoiser(case, "network", "parameters"), denoiser(case, "guide", "guide_parameters")
    how = case["sampler"]
    sigmas = Karras(how["steps"], how["sigma_min"], how["sigma_max"], how["rho"])(main, how["steps"])
    for scale in how["guidance"]:
        path_of: list[torch.Tensor] = []
        guided = AutoGuidance(main, guide, scale)
        start = there["sample:init"][:, :, None, None].double()

        def note(x, sigma, x0, path_of=path_of):
            path_of.append(x)

        end = EDMSampler()(guided, start, sigmas, torch.randn_like, note)
        found = torch.stack([*path_of, end]).flatten(2)
        assert vectors.relative_error(found, there[f"sample:net:{scale}"]) < 1e-4, scale
