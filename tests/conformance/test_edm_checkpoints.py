"""Checkpoints of the EDM family's form give the denoisers that the reference had, and nothing in them is run."""

import numpy as np
import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.training.snapshots.snapshot import load_snapshot, save_snapshot
from tests import published, vectors


def write(path, content, protocol=4):
    path.write_bytes(published.dumps(content, protocol))
    return path


def precond_file(case, path, protocol=4, kind=None):
    """A checkpoint of a case that describes a denoiser."""
    kwargs = dict(case["kwargs"])
    network = kwargs.get("model_type", "SongUNet")
    kind = kind or case["precond"]
    outer = ("img_resolution", "img_channels", "label_dim", "model_type", "out_channels")
    inner = {name: value for name, value in kwargs.items() if name not in outer}
    out_channels = kwargs.get("out_channels", kwargs["img_channels"] * (2 if kind == "iDDPMPrecond" else 1))
    inner.update(img_resolution=kwargs["img_resolution"], label_dim=kwargs["label_dim"])
    inner.update(in_channels=kwargs["img_channels"], out_channels=out_channels)
    return write(path, published.checkpoint(case, kind, network, {**kwargs, "use_fp16": False}, inner), protocol)


@pytest.mark.parametrize("path", vectors.cases("preconds/*"), ids=lambda path: path.stem)
@pytest.mark.parametrize("protocol", [2, 4])
def test_preconds(path, protocol, tmp_path):
    case, arrays = vectors.load(path)
    snapshot = load_snapshot(precond_file(case, tmp_path / "published.pkl", protocol))
    denoiser = snapshot.ema
    assert type(denoiser).__name__ == case["precond"] and not denoiser.training
    x, sigma = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["sigma"])
    cond = {"labels": torch.from_numpy(arrays["class_labels"]), "augment": torch.from_numpy(arrays["augment_labels"])}
    assert vectors.relative_error(denoiser(x, sigma, cond).x0, arrays["D"]) < 1e-5
    assert vectors.relative_error(denoiser(x, sigma).x0, arrays["D_without_labels"]) < 1e-5
    assert snapshot.dataset["name"] == "afhq-64x64" and snapshot.encoder == {"name": "rgb"}


@pytest.mark.parametrize("path", vectors.cases("losses/patch*"), ids=lambda path: path.stem)
def test_patch_diffusion(path, tmp_path):
    case, arrays = vectors.load(path)
    denoiser = load_snapshot(precond_file(case, tmp_path / "published.pkl", kind="Patch_EDMPrecond")).ema
    assert denoiser.spec.spatial == {"coords": 2} and denoiser.spec.image_channels == 3
    x, labels = torch.from_numpy(arrays["cfg_x"]), torch.from_numpy(arrays["class_labels"])[:2]
    without, with_labels = denoiser(x, 0.7).x0, denoiser(x, 0.7, {"labels": labels}).x0
    assert vectors.relative_error(without + 1.3 * (with_labels - without), arrays["cfg_D_1.3"]) < 1e-5


@pytest.mark.parametrize("path", vectors.cases("networks/*"), ids=lambda path: path.stem)
def test_networks_by_the_options_of_either_object(path, tmp_path):
    case, arrays = vectors.load(path)
    kwargs = case["kwargs"]
    kind = "iDDPMPrecond" if kwargs["out_channels"] == 2 * kwargs["in_channels"] else "EDMPrecond"
    weights = {name: vectors.formula(case["salt"], name, shape) for name, shape in case["parameters"].items()}
    outer = {name: value for name, value in kwargs.items() if name not in ("in_channels", "out_channels")}
    outer["img_channels"] = kwargs["in_channels"]
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    names = {"labels": "class_labels", "augment": "augment_labels"}
    cond = {key: tensors[name] for key, name in names.items() if name in tensors}
    for precond_kwargs, network_kwargs in ((outer, {}), ({"img_channels": kwargs["in_channels"]}, kwargs)):
        content = published.checkpoint(case, kind, case["network"], precond_kwargs, network_kwargs, weights)
        denoiser = load_snapshot(write(tmp_path / "published.pkl", content)).ema
        out = denoiser.model(tensors["x"], tensors["noise_labels"], cond)
        assert vectors.relative_error(out, arrays["out"]) < 1e-5


@pytest.mark.parametrize("path", vectors.cases("preconds/EDM*"), ids=lambda path: path.stem)
@pytest.mark.parametrize("given", ["as an argument", "as an attribute"])
def test_consistency_tuning(path, given, tmp_path):
    """A model of ECT: EDM's while training, D(x; sigma_min) = x in evaluation, one step from 80 and two by 0.821."""
    case, arrays = vectors.load(path)
    network, s = case["kwargs"].get("model_type", "SongUNet"), 0.5
    kwargs = {**case["kwargs"], **({"sigma_min": 0.01} if given == "as an argument" else {})}
    content = published.checkpoint(case, "ECMPrecond", network, kwargs, {})
    content["ema"].state["sigma_min"] = np.float64(0.01)
    snapshot = load_snapshot(write(tmp_path / "published.pkl", content))
    denoiser = snapshot.ema
    x, sigma = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["sigma"]).reshape(-1, 1, 1, 1)
    cond = {"labels": torch.from_numpy(arrays["class_labels"]), "augment": torch.from_numpy(arrays["augment_labels"])}
    with torch.no_grad():
        found = denoiser(x, sigma, cond).x0
        total = sigma**2 + s**2
        out = (torch.from_numpy(arrays["D"]) - s**2 / total * x) / (sigma * s / total.sqrt())
        above = sigma - 0.01
        wanted = s**2 / (above**2 + s**2) * x + above * s / total.sqrt() * out
        assert vectors.relative_error(found, wanted) < 1e-5
        assert torch.equal(denoiser(x, 0.01, cond).x0, x)
        assert vectors.relative_error(denoiser.train()(x, sigma, cond).x0, arrays["D"]) < 1e-5
    assert snapshot.sampler == {"name": "consistency"}
    assert snapshot.schedule == {"name": "chosen", "levels": [80.0, 0.821]}


@pytest.fixture(scope="module")
def content():
    case, _ = vectors.load(vectors.cases("preconds/EDM*")[0])
    kwargs = dict(case["kwargs"])
    return lambda: published.checkpoint(case, "EDMPrecond", "SongUNet", kwargs, {})


def test_half_precision_and_saving_as_a_snapshot_of_ours(content, tmp_path):
    original = content()
    original["ema"].state["_init_kwargs"]["use_fp16"] = True
    first = load_snapshot(write(tmp_path / "published.pkl", original))
    assert first.ema.precision == "fp16"
    save_snapshot(tmp_path / "ours.pkl", first)
    second = load_snapshot(tmp_path / "ours.pkl")
    x = torch.randn(2, 3, 16, 16)
    assert second.ema.precision == "fp16" and torch.equal(second.ema(x, 1.0).x0, first.ema(x, 1.0).x0)


def test_shared_weights_and_positional_arguments(content, tmp_path):
    original = content()
    state, kwargs = original["ema"].state, original["ema"].state["_init_kwargs"]
    state["_init_args"] = (kwargs.pop("img_resolution"), kwargs.pop("img_channels"))
    original["augment_pipe"].state["copy"] = original["ema"]  # pickled once, referred to twice
    assert load_snapshot(write(tmp_path / "published.pkl", original)).ema.spec.resolution == (16, 16)


def changed(content, change):
    change(content)
    return content


def drop_weights(content):
    model = content["ema"].child("model")
    del model.child("enc")._modules["16x16_conv"].state["_parameters"]["bias"]


def unknown_option(content):
    content["ema"].state["_init_kwargs"]["frobnicate"] = 1


def other_width(content):
    content["ema"].state["_init_kwargs"]["model_channels"] = 1 << 16


def cycle(content):
    content["ema"].child("model").state["_modules"]["enc"]._modules["again"] = content["ema"].child("model")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: setattr(c["ema"], "class_name", "OtherPrecond"), "preconditioner is of class 'OtherPrecond'"),
        (lambda c: setattr(c["ema"].child("model"), "class_name", "VNet"), "network is of class 'VNet'"),
        (lambda c: c["ema"].state["_modules"].clear(), "'model' is missing"),
        (drop_weights, "lacks the weights model.enc.16x16_conv.bias"),
        (unknown_option, "no option 'frobnicate'"),
        (other_width, "larger network than its weights"),
        (cycle, "without end"),
        (lambda c: c["ema"].state["_init_kwargs"].update(channel_mult="abc"), "channel_mult='abc' must be a list"),
        (lambda c: c["ema"].state["_init_kwargs"].update(model_channels=32), "have shape"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(change, message, content, tmp_path):
    path = write(tmp_path / "published.pkl", changed(content(), change))
    with pytest.raises(UserError, match=message) as error:
        load_snapshot(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
