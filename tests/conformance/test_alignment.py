"""The loss of REPA with two projectors, and the gradients of all its parameters, equal the reference's."""

import pytest
import torch

from elucid.training.config.build import make_denoiser
from elucid.training.features.base import FeatureEncoder
from elucid.training.objective import Objective
from elucid.training.registry.components import make
from elucid.training.types import Batch, NetSpec
from tests import vectors
from tests.oracles import step_at

CASES = vectors.cases("transformers/repa/losses")
SETTINGS = [f"{path}:{level}" for path in ("linear", "cosine") for level in ("uniform", "lognormal")]


class Recorded(FeatureEncoder):
    """The tokens that the reference was given in the place of an encoder's."""

    def __init__(self, dim: int):
        self.dim, self.grid = dim, (4, 4)

    def features(self, images):
        return self.tokens


def made(case: dict, arrays: dict, path: str):
    """Our loss around flow matching, filled with the reference's parameters, and its name of each parameter."""
    own = case["kwargs"]
    network = {
        "name": "transformer", "patch": own["patch_size"], "model_channels": own["hidden_size"],
        "depth": own["depth"], "num_heads": own["num_heads"],
    }  # fmt: skip
    loss = {
        "name": "alignment", "base": {"name": "flow", "mean": True}, "layer": f"block{own['encoder_depth']}",
        "width": own["projector_dim"],
        "features": [{"name": "tests/conformance/test_alignment.py:Recorded", "dim": dim} for dim in own["z_dims"]],
    }  # fmt: skip
    spec = NetSpec((own["input_size"],) * 2, own["in_channels"], vector={"labels": own["num_classes"]}, latent=True)
    loss = make(loss, "loss")
    denoiser = make_denoiser(network, {"name": "flow", "path": path}, loss.adapt(spec))
    loss.check(denoiser)
    loss.setup(denoiser, None)
    objective = Objective(denoiser, loss)
    for index, one in enumerate(loss.encoders):
        one.tokens = torch.from_numpy(arrays[f"features{index}"])

    def ours(name: str) -> str:
        return f"loss.{name}" if name.startswith("projectors.") else f"denoiser.model.{name}"

    vectors.fill(objective, case["salt"], case["parameters"], ours)
    return objective, ours


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("setting", SETTINGS)
def test_losses_and_gradients(path, setting, monkeypatch):
    case, arrays = vectors.load(path)
    (wanted,) = (one["grad_norms"] for one in case["cases"] if one["case"] == setting)
    objective, ours = made(case, arrays, setting.partition(":")[0])
    process, draw = objective.denoiser.process, torch.from_numpy(arrays[f"{setting}:level_draw"])
    sigma = process.sigma(draw) if setting.endswith("uniform") else draw.exp()
    monkeypatch.setattr(objective.loss.base.noise, "sample", lambda *where: sigma)
    noise = torch.from_numpy(arrays[f"{setting}:noise_draw"])
    monkeypatch.setattr(torch, "randn_like", lambda x: noise)
    labels = torch.nn.functional.one_hot(torch.from_numpy(arrays["y"]), case["kwargs"]["num_classes"]).float()
    pixels = torch.zeros(len(labels), 3, 16, 16, dtype=torch.uint8)
    batch = Batch(torch.from_numpy(arrays["latents"]), {"labels": labels}, raw=pixels)
    objective.train()
    out = objective(batch, step_at())
    assert vectors.relative_error(out.terms["loss"], arrays[f"{setting}:denoising"]) < 1e-5
    assert vectors.relative_error(out.terms["alignment"].mean(), arrays[f"{setting}:projection"]) < 1e-5
    total = arrays[f"{setting}:denoising"] + 0.5 * arrays[f"{setting}:projection"]
    assert float(out.loss.detach().mean()) == pytest.approx(float(total.mean()), rel=1e-5)
    out.loss.mean().backward()
    norms = {name: float(one.grad.norm()) for name, one in objective.named_parameters()}
    assert norms.keys() == {ours(name) for name in wanted}
    assert {name: norms[ours(name)] for name in wanted} == pytest.approx(wanted, rel=1e-5)
