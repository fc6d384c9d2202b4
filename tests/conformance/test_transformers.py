"""Transformers equal the networks of DiT, SiT, JiT, REPA, LightningDiT and DDT, and their layers those of timm."""

import pytest
import torch
from torch.nn import functional as F

from elucid.training.networks.transformers.blocks import GELUMLP, Attention, LayerNorm, PatchEmbedding
from elucid.training.networks.transformers.embeddings import TimeEmbedder, sine_positions
from elucid.training.transforms.label_dropout import LabelDropout
from elucid.training.types import Batch
from tests import transformers, vectors

CASES = vectors.cases("transformers/*/network*")


def name_of(path):
    return f"{path.parent.name}-{path.stem}"


def filled(path, **more):
    """The network of a case, its arrays and its description; REPA's projectors are no part of the network."""
    case, arrays = vectors.load(path)
    network = transformers.network(path.parent.name, case["kwargs"], **more)
    shapes = {name: one for name, one in case["parameters"].items() if not name.startswith("projectors.")}
    vectors.fill(network, case["salt"], shapes)
    return network.eval(), {name: torch.from_numpy(array) for name, array in arrays.items()}, case


def labels(classes: torch.Tensor, count: int) -> dict[str, torch.Tensor]:
    """One-hot labels; the class after the last is none, for which they are zero."""
    return {"labels": F.one_hot(classes, count + 1)[:, :count].float()}


@pytest.mark.parametrize("path", CASES, ids=name_of)
def test_networks(path):
    """Output, all recorded inner layers, and the gradients to the image and of the weights."""
    network, there, case = filled(path)
    inner = {name.removeprefix("inner:"): one for name, one in there.items() if name.startswith("inner:")}
    inner = {name: one for name, one in inner.items() if not name.startswith("projectors.")}
    seen = {}
    for name in inner:
        network.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    x = there["x"].requires_grad_()
    out = network(x, there["t"], labels(there["y"], case["kwargs"]["num_classes"]))
    out = out[:, : there["out"].shape[1]]  # SiT's variance is not used
    (out * there["cotangent"]).sum().backward()
    found = {"out": out, "x_grad": x.grad, **seen}
    wanted = {"out": there["out"], "x_grad": there["x_grad"], **inner}
    assert found.keys() == wanted.keys() and len(wanted) > 2
    errors = {name: vectors.relative_error(one, wanted[name]) for name, one in found.items()}
    assert errors == pytest.approx(dict.fromkeys(errors, 0), abs=1e-5)
    norms = {name: float(one.grad.norm()) for name, one in network.named_parameters()}
    # Attention is the same for any offset of the keys, whose gradient is rounding.
    recorded = {name: one for name, one in case["grad_norms"].items() if name in norms and "k_norm.bias" not in name}
    assert norms.keys() - recorded.keys() <= {name for name in norms if "k_norm.bias" in name}
    assert {name: norms[name] for name in recorded} == pytest.approx(recorded, rel=1e-5)


GUIDED = [path for path in CASES if any(name.startswith("guided_out") for name in vectors.load(path)[1])]


@pytest.mark.parametrize("path", GUIDED, ids=name_of)
def test_the_null_class_guides(path):
    """Labels of zeros are the class of none; the recorded programs guide the first three channels with it."""
    network, there, case = filled(path)
    both = labels(there["guided_y"], case["kwargs"]["num_classes"])
    for name in [name for name in there if name.startswith("guided_out")]:
        out = network(there["guided_x"], there[name.replace("out", "t")], both)[:, : there[name].shape[1]]
        with_class, without = out.chunk(2)
        guided = with_class.clone()
        scale = 1.0 if name.endswith("below") else float(there["guided_scale"])
        guided[:, :3] = without[:, :3] + scale * (with_class[:, :3] - without[:, :3])
        recorded, count = there[name][: len(guided)], 4  # of the variance it keeps that of each label
        assert vectors.relative_error(guided[:, :count], recorded[:, :count]) < 1e-5, name


@pytest.mark.parametrize("path", vectors.cases("transformers/repa/network*"), ids=name_of)
def test_features_are_the_tokens_that_projectors_take(path):
    network, there, case = filled(path, features=[f"block{vectors.load(path)[0]['kwargs']['encoder_depth']}"])
    out, features = network(there["x"], there["t"], labels(there["y"], case["kwargs"]["num_classes"]))
    assert vectors.relative_error(out, there["out"]) < 1e-5
    assert vectors.relative_error(features["block1"], there["inner:blocks.0"]) < 1e-5
    tokens = features["block1"].flatten(0, 1)
    for index in range(len(case["kwargs"]["z_dims"])):
        for layer in (0, 2, 4):
            names = [f"projectors.{index}.{layer}.{kind}" for kind in ("weight", "bias")]
            weight, bias = (vectors.formula(case["salt"], name, case["parameters"][name]) for name in names)
            of = tokens if layer == 0 else F.silu(hidden)  # noqa: F821
            hidden = F.linear(of, weight, bias)
        assert vectors.relative_error(hidden, there[f"inner:projectors.{index}"]) < 1e-5


@pytest.mark.parametrize("path", vectors.cases("transformers/dit/network_learn_sigma"), ids=name_of)
def test_time_embedding_and_label_dropout(path, monkeypatch):
    _, there = vectors.load(path)
    there = {name: torch.from_numpy(one) for name, one in there.items()}
    for name, features in (("embed_out", 256), ("embed_odd", 7)):
        found = TimeEmbedder(8, features=features).waves(there["embed_t"])
        assert vectors.relative_error(found, there[name]) < 1e-5
    draw = there["dropout_draw"]
    monkeypatch.setattr(torch, "rand", lambda *shape, **how: draw.reshape(shape))
    kept = LabelDropout(0.1)(Batch(torch.zeros(len(draw), 1, 1, 1), {"labels": torch.ones(len(draw), 1)}))
    assert torch.equal(kept.cond["labels"][:, 0] == 0, there["dropout_is_null"])


@pytest.mark.parametrize("path", vectors.cases("transformers/dit/positions"), ids=name_of)
def test_positions(path):
    _, arrays = vectors.load(path)
    for name, table in arrays.items():
        width, side = map(int, name.split(":")[1:])
        assert vectors.relative_error(sine_positions((side, side), width), table) < 1e-12


def timm(name: str):
    return {
        "patch_embed": lambda: PatchEmbedding(4, 48, 2),
        "attention": lambda: Attention(48, 4),
        "attention_qknorm": lambda: Attention(48, 4, norm=lambda width: LayerNorm(width, affine=True)),
        "mlp_tanh_gelu": lambda: GELUMLP(48, 192),
    }[name]()


@pytest.mark.parametrize("path", vectors.cases("transformers/dit/timm_*"), ids=name_of)
def test_layers(path):
    case, arrays = vectors.load(path)
    layer = timm(path.stem.removeprefix("timm_"))
    vectors.fill(layer, case["salt"], case["parameters"])
    assert vectors.relative_error(layer(torch.from_numpy(arrays["x"])), arrays["out"]) < 1e-5


@pytest.mark.parametrize("path", vectors.cases("transformers/dit/initialisation"), ids=name_of)
def test_first_weights(path):
    """Mean, deviation and largest magnitude are the recorded ones, up to chance."""
    rows = dict(vectors.load(path)[0]["rows"])
    kwargs = {"in_channels": 4, "patch_size": 2, "hidden_size": 48, "depth": 2, "num_heads": 4, "num_classes": 5}
    network = transformers.network("dit", {**kwargs, "learn_sigma": True})
    fresh = dict(network.named_parameters())
    assert fresh.keys() == rows.keys() - {"pos_embed"}
    for name, (mean, deviation, largest) in rows.items():
        value = network.pos_embed.table if name == "pos_embed" else fresh[name].detach()
        chance = 4 * deviation / value.numel() ** 0.5
        assert float(value.mean()) == pytest.approx(mean, abs=2 * chance), name
        assert float(value.std()) == pytest.approx(deviation, abs=chance, rel=0.02), name
        normal = name.startswith(("t_embedder", "y_embedder"))
        assert float(value.abs().max()) == pytest.approx(largest, rel=0.4 if normal else 0.02), name
