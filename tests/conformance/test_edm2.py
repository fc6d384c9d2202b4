"""EDM2's pieces, blocks, networks, preconditioner, loss and training steps equal the reference."""

import re

import pytest
import torch
from torch.nn import functional as F

from elucid.training.ema.power import PowerEMA
from elucid.training.losses.dsm import DSM
from elucid.training.networks.edm2.blocks import Balance, Design, EDM2Block
from elucid.training.networks.edm2.layers import FourierFeatures, UnitLayer, force_unit_rows
from elucid.training.networks.edm2.magnitude import balanced_concat, unit_magnitude
from elucid.training.networks.edm2.unet import EDM2UNet
from elucid.training.networks.layers import Resample
from elucid.training.optim.schedules import InverseSqrt
from elucid.training.preconds.edm2 import EDM2Precond
from elucid.training.registry.components import make
from elucid.training.types import Batch, NetSpec
from tests import vectors
from tests.oracles import step_at

EDM2_LOSS = {"P_mean": -0.4, "P_std": 1.0}
"""The options of the reference's loss where a case names none."""

OURS = {"unet.": "model.", "logvar_fourier.": "uncertainty.features.", "logvar_linear.": "uncertainty.linear."}


def ours(name: str) -> str:
    """Our name of a parameter of the reference's preconditioned network."""
    prefix = name[: name.index(".") + 1]
    return OURS[prefix] + name.removeprefix(prefix)


def fill(module, case: dict, rename=lambda name: name) -> None:
    """Fill a module by the formula; our gains have one element in one dimension."""
    vectors.fill(module, case["salt"], {name: shape or [1] for name, shape in case["parameters"].items()}, rename)


def tensors_of(path):
    case, arrays = vectors.load(path)
    return case, {name: torch.from_numpy(array) for name, array in arrays.items()}


def network(kwargs: dict) -> EDM2UNet:
    options = {name: value for name, value in kwargs.items() if name not in ("img_channels", "label_dim")}
    channels, vector = kwargs["img_channels"], {"labels": kwargs["label_dim"]} if kwargs["label_dim"] else {}
    return EDM2UNet(in_channels=channels, out_channels=channels, vector=vector, **options)


def denoiser(case: dict, kwargs: dict) -> EDM2Precond:
    kwargs = dict(kwargs)
    features = kwargs.pop("logvar_channels")
    size, channels = kwargs["img_resolution"], kwargs["img_channels"]
    vector = {"labels": kwargs["label_dim"]}
    spec = NetSpec((size, size), channels, vector=vector, logvar_features=features)
    result = EDM2Precond(network(kwargs), spec)
    fill(result, case, ours)
    return result


@pytest.mark.parametrize("path", vectors.cases("edm2/pieces*"), ids=lambda path: path.stem)
def test_pieces(path):
    case, there = tensors_of(path)
    x, found = there["x"], {}
    found["normalize:all"] = unit_magnitude(x, (1, 2, 3), case["eps"])
    found["normalize:dim1"] = unit_magnitude(x, (1,), case["eps"])
    found["normalize:dims23_eps0.01"] = unit_magnitude(x, (2, 3), 0.01)
    found["mp_silu"] = F.silu(x) * Design().silu_gain
    for name in there:
        if name.startswith("mp_sum:t"):
            kept, added = Design().shares(float(name.removeprefix("mp_sum:t")))
            found[name] = kept * x + added * there["b"]
        elif name.startswith("mp_cat:t"):
            found[name] = balanced_concat(x, there["c"], float(name.removeprefix("mp_cat:t")))
        elif match := re.fullmatch(r"resample:(up|down):(\d+)", name):
            found[name] = Resample(match[1], [int(tap) for tap in match[2]])(x)
        elif match := re.fullmatch(r"(linear|conv1|conv3):(eval|train):gain(.*):out", name):
            found |= layer_results(there, *match.groups())
    features = FourierFeatures(len(there["fourier:freqs"]))
    features.load_state_dict({name: there[f"fourier:{name}"] for name in ("freqs", "phases")})
    found["fourier:out"] = features(there["fourier:x"])
    given = ("x", "b", "c", "fourier:x", "fourier:freqs", "fourier:phases")
    untouched = {name for name in there if name.endswith((":weight", ":x", ":cotangent")) or ":keep:" in name}
    assert found.keys() == there.keys() - {*given} - untouched
    assert {name: vectors.relative_error(value, there[name]) for name, value in found.items()} == pytest.approx(
        dict.fromkeys(found, 0), abs=1e-6
    )


def layer_results(there: dict, kind: str, mode: str, gain: str) -> dict:
    weight = there[f"{kind}:weight"]
    layer = UnitLayer(weight.shape[1], weight.shape[0], {"linear": 0, "conv1": 1, "conv3": 3}[kind])
    layer.load_state_dict({"weight": weight})
    if mode == "train":  # the reference overwrites its weight in the pass itself
        force_unit_rows(layer)
    x = there[f"{kind}:x"].clone().requires_grad_()
    out = layer(x, torch.tensor([float(gain)]))
    (out * there[f"{kind}:cotangent"]).sum().backward()
    place = f"{kind}:{mode}:gain{gain}"
    return {
        f"{place}:out": out,
        f"{place}:grad_weight": layer.weight.grad,
        f"{place}:grad_x": x.grad,
        f"{place}:weight_after": layer.weight,
    }


@pytest.mark.parametrize("path", vectors.cases("edm2/blocks*"), ids=lambda path: path.stem)
def test_blocks(path):
    case, there = tensors_of(path)
    for one in case["blocks"]:
        options = {**case["defaults"], **one["kwargs"]}
        balance = Balance(options["res_balance"], options["attn_balance"], options["clip_act"])
        sizes = [options[name] for name in ("in_channels", "out_channels", "emb_channels")]
        decodes, resample = options["flavor"] == "dec", options.get("resample_mode")
        block = EDM2Block(*sizes, decodes=decodes, heads=one["heads"], resample=resample, balance=balance)
        fill(block, {**case, "parameters": one["parameters"]})
        out = block.eval()(there["x"], there["emb"])
        assert vectors.relative_error(out, there[one["out"]]) < 1e-6, one


@pytest.mark.parametrize("path", vectors.cases("edm2/unet_*"), ids=lambda path: path.stem)
def test_network(path):
    case, there = tensors_of(path)
    net = network({**case["kwargs"], "dropout": 0})
    fill(net, case)
    cond = {"labels": there["class_labels"]} if "class_labels" in there else {}
    inputs = there["x"], there["noise_labels"], cond
    assert vectors.relative_error(net.eval()(*inputs), there["out_eval"]) < 1e-5
    net.train().after_step(step_at(0, 1))
    out = net(*inputs)
    assert vectors.relative_error(out, there["out_train"]) < 1e-5
    (out * there["cotangent"]).sum().backward()
    norms = {name: float(one.grad.norm()) for name, one in net.named_parameters()}
    assert {name: norms[name] for name in case["grad_norms_train"]} == pytest.approx(case["grad_norms_train"], rel=1e-4)
    lengths = {name: float(one.detach().norm()) for name, one in net.named_parameters()}
    wanted = case["norms_after_train_forward"]
    assert {name: lengths[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("path", vectors.cases("edm2/precond*"), ids=lambda path: path.stem)
def test_preconditioner(path):
    case, there = tensors_of(path)
    model = denoiser(case, case["kwargs"]).eval()
    out = model(there["x"], there["sigma"], {"labels": there["class_labels"]})
    assert vectors.relative_error(out.x0, there["D"]) < 1e-5
    assert vectors.relative_error(out.logvar, there["logvar"].flatten()) < 1e-5
    assert vectors.relative_error(model(there["x"], there["sigma"]).x0, there["D_without_labels"]) < 1e-5


def evaluated(model, there: dict, prefix: str, options: dict):
    """The loss of an example with given draws, and its terms."""
    noise = {"P_mean": options["P_mean"], "P_std": options["P_std"]} if options else {}
    loss = make({"name": "uncertainty", "base": {"name": "edm", "noise": {"name": "lognormal", **noise}}}, "loss")
    draws = {"sigma": (there[f"{prefix}level_draw"] * loss.base.noise.P_std + loss.base.noise.P_mean).exp()}
    draws["noise"] = there[f"{prefix}noise_draw"]
    with pytest.MonkeyPatch.context() as patch:
        plain = DSM.evaluate
        patch.setattr(DSM, "evaluate", lambda self, denoiser, batch: plain(self, denoiser, batch, **draws))
        batch = Batch(there[f"{prefix}images"], {"labels": there[f"{prefix}class_labels"]})
        return loss(model, batch, step_at(0, 1))


@pytest.mark.parametrize("path", vectors.cases("edm2/loss_*"), ids=lambda path: path.stem)
def test_loss(path):
    case, there = tensors_of(path)
    model = denoiser(case, case["network"])
    by_mode = {}
    for mode in ("eval", "train"):
        model.train(mode == "train")
        if mode == "train":
            model.after_step(step_at(0, 1))
        by_mode[mode] = evaluated(model, there, "", case["kwargs"])
        wanted = there[f"{mode}:loss"].sum(dim=(1, 2, 3))
        assert vectors.relative_error(by_mode[mode].loss, wanted) < 1e-5
    by_mode["train"].loss.mean().backward()
    grads = {name: one.grad for name, one in model.named_parameters()}
    wanted = {ours(name): value for name, value in case["grad_norms_train"].items()}
    assert {name: float(grads[name].norm()) for name in wanted} == pytest.approx(wanted, rel=1e-4, abs=1e-6)
    for name, value in there.items():
        if name.startswith("grad:"):
            assert (
                vectors.relative_error(grads[ours(name.removeprefix("grad:"))], value.reshape(value.shape or 1)) < 1e-5
            )


@pytest.mark.parametrize("path", vectors.cases("edm2/training_steps*"), ids=lambda path: path.stem)
def test_training_steps(path):
    """Loss, rate, Adam and averages of four steps; the reference normalises at the start of a step, we at its end."""
    case, there = tensors_of(path)
    model = denoiser(case, case["network"]).train()
    batch, rates = case["batch_size"], case["lr"]
    schedule = InverseSqrt(warmup_kimg=rates["rampup_Mimg"] * 1000, reference_mimg=rates["ref_batches"] * batch / 1e6)
    optimizer = torch.optim.Adam(model.parameters(), lr=rates["ref_lr"], **case["adam"])
    ema = PowerEMA(model, case["ema_stds"])
    model.after_step(step_at(0, 1))
    for index, wanted in enumerate(case["steps"]):
        step = step_at(index * batch, 10**9, batch)
        out = evaluated(model, there, f"step{index}:", EDM2_LOSS)
        optimizer.zero_grad()
        out.loss.mean().backward()
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(rates["ref_lr"], step)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(wanted["lr"], rel=1e-12)
        assert float(out.terms["weighted"].detach().mean()) == pytest.approx(wanted["loss_mean"], rel=1e-4)
        optimizer.step()
        ema.update(model, step)
        parameters = dict(model.named_parameters())
        norms = {ours(name): value for name, value in wanted["norms_after_step"].items()}
        assert {name: float(parameters[name].detach().norm()) for name in norms} == pytest.approx(norms, rel=1e-4)
        for name, value in there.items():
            prefix, _, parameter = name.partition(":")
            if prefix == f"step{index}" and "." in parameter:
                assert vectors.relative_error(parameters[ours(parameter)], value.reshape(value.shape or 1)) < 1e-4, name
        model.after_step(step)
    for name, value in there.items():
        prefix, _, parameter = name.partition(":")
        if prefix.startswith("ema-"):
            average = ema.averages[prefix.removeprefix("ema-")].get_parameter(ours(parameter))
            assert vectors.relative_error(average, value.reshape(value.shape or 1)) < 1e-4, name
