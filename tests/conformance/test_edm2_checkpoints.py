"""Checkpoints of EDM2's form give the denoisers that the reference had, and nothing in them is run."""

import numpy as np
import pytest
import torch
from torch import nn

from elucid.dnnlib.errors import UserError
from elucid.training.config.build import make_denoiser
from elucid.training.snapshots.edm2_family import images_and_average
from elucid.training.snapshots.snapshot import load_snapshot, save_snapshot, snapshots_in
from elucid.training.snapshots.transfer import transfer
from tests import published, vectors

CASES = vectors.cases("edm2/precond*")
SHAPING = ("model_channels", "channel_mult", "num_blocks", "attn_resolutions", "channels_per_head")
VAE = {"vae_name": "stabilityai/sd-vae-ft-mse", "raw_mean": [5.81, 3.25, 0.12, -2.15], "final_std": 0.5}


def write(path, content, protocol=4):
    path.write_bytes(published.dumps(content, protocol))
    return path


def content_of(path=CASES[0], encoder=None, **kwargs):
    case, _ = vectors.load(path)
    return published.edm2_checkpoint(case["salt"], {**case["kwargs"], **kwargs}, case["parameters"], encoder)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("protocol", [2, 4])
def test_denoiser_of_half_precision(path, protocol, tmp_path):
    """The weights in the file are those of the vectors, rounded to float16: the outputs differ by no more."""
    _, there = vectors.load(path)
    snapshot = load_snapshot(write(tmp_path / "edm2-img64-s-1073741-0.075.pkl", content_of(path), protocol))
    model, x, sigma = snapshot.ema, torch.from_numpy(there["x"]), torch.from_numpy(there["sigma"])
    assert {one.dtype for one in model.state_dict().values()} == {torch.float32} and not model.training
    out = model(x, sigma, {"labels": torch.from_numpy(there["class_labels"])})
    assert vectors.relative_error(out.x0, there["D"]) < 1e-3
    assert vectors.relative_error(out.logvar, there["logvar"].flatten()) < 1e-3
    assert vectors.relative_error(model(x, sigma).x0, there["D_without_labels"]) < 1e-3
    assert list(snapshot.emas) == ["0.075"] and snapshot.nimg == 2**30 and snapshot.dataset["name"] == "img64"
    assert snapshot.sampler == {"name": "edm2"}


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_exact_weights_give_the_exact_denoiser(path, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "half", lambda self: self)
    _, there = vectors.load(path)
    model = load_snapshot(write(tmp_path / "network.pkl", content_of(path))).ema
    out = model(
        torch.from_numpy(there["x"]),
        torch.from_numpy(there["sigma"]),
        {"labels": torch.from_numpy(there["class_labels"])},
    )
    assert vectors.relative_error(out.x0, there["D"]) < 1e-5
    assert vectors.relative_error(out.logvar, there["logvar"].flatten()) < 1e-5


def test_options_and_encoders(tmp_path):
    options = {"use_fp16": True, "sigma_data": 0.4, "dropout": 0.1, "clip_act": 99}
    latents = published.Persistent("StabilityVAEEncoder", init_kwargs={**VAE, "batch_size": 8}, scale=np.zeros(4, "f4"))
    snapshot = load_snapshot(write(tmp_path / "a.pkl", content_of(encoder=latents, **options)))
    denoiser = snapshot.ema
    assert denoiser.precision == "fp16" and denoiser.sigma_data == 0.4 and denoiser.spec.latent
    assert denoiser.model.config["options"]["dropout"] == 0.1 and denoiser.model.config["options"]["clip_act"] == 99
    assert snapshot.encoder == {
        "name": "edm2_vae", "model": "stabilityai/sd-vae-ft-mse", "mean": VAE["raw_mean"], "final_std": 0.5,
    }  # fmt: skip
    images = load_snapshot(write(tmp_path / "b.pkl", content_of()))
    assert images.encoder == {"name": "rgb"} and not images.ema.spec.latent
    old = content_of()
    del old["encoder"]
    assert load_snapshot(write(tmp_path / "c.pkl", old)).encoder == {"name": "rgb"}


def test_saved_as_a_snapshot_of_ours(tmp_path):
    first = load_snapshot(write(tmp_path / "network-snapshot-0008388-0.050.pkl", content_of()))
    save_snapshot(tmp_path / "ours.pkl", first)
    second = load_snapshot(tmp_path / "ours.pkl")
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(second.ema(x, 1.0).x0, first.ema(x, 1.0).x0)
    assert torch.equal(second.ema(x, 1.0).logvar, first.ema(x, 1.0).logvar) and second.nimg == 2**23


def test_a_run_starts_from_all_of_its_weights(tmp_path):
    """`--transfer`, into a network of our own options."""
    theirs = load_snapshot(write(tmp_path / "theirs.pkl", content_of()))
    options = {name: value for name, value in theirs.ema.model.config["options"].items() if name in SHAPING}
    ours = make_denoiser({"name": "edm2", **options}, {"name": "edm2"}, theirs.ema.spec)
    assert "left" not in transfer(theirs, ours)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(ours.eval()(x, 1.0).x0, theirs.ema(x, 1.0).x0)


@pytest.mark.parametrize(
    ("stem", "images", "name"),
    [
        ("network-snapshot-0134217-0.050", 2**27, "0.050"),
        ("edm2-img512-xs-2147483-0.135", 2**31, "0.135"),
        ("network-snapshot-0000000-0.100", 0, "0.100"),
        ("network-snapshot-0000131-0.0625", 2**17, "0.0625"),
        ("network-snapshot-000131", 0, "ema"),
        ("0123456789abcdef-edm2-img64-s-1073741-0.075", 2**30, "0.075"),
    ],
)
def test_names_of_files(stem, images, name):
    assert images_and_average(stem) == (images, name)


def test_every_multiple_of_1024_is_recovered():
    for count in [*range(0, 5000), 2**20 - 1, 2**21]:
        assert images_and_average(f"x-{count * 1024 // 1000:07d}-0.050") == (count * 1024, "0.050")


def test_the_newest_of_a_folder(tmp_path):
    names = [f"network-snapshot-{kimg}-{std}.pkl" for kimg in ("0008388", "0134217", "0067108") for std in (0.05, 0.1)]
    for name in names:
        (tmp_path / name).touch()
    assert snapshots_in(tmp_path)[-1].name == "network-snapshot-0134217-0.1.pkl"


def unet(content):
    return content["ema"].child("unet")


def cycle(content):
    unet(content).state["_modules"]["enc"]._modules["again"] = unet(content)


def drop_weights(content):
    del unet(content).child("emb_noise").state["_parameters"]["weight"]


def other_shape(content):
    unet(content).child("emb_noise").state["_parameters"]["weight"] = nn.Parameter(torch.zeros(3, 5))


def infinite(content):
    unet(content).state["_parameters"]["out_gain"].data.fill_(torch.inf)


def more_weights(content):
    unet(content).state["_parameters"]["surplus"] = nn.Parameter(torch.zeros(2))


def option(**values):
    def change(content):
        for record in (content["ema"], unet(content)):
            record.state["_init_kwargs"].update(values)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: setattr(unet(c), "class_name", "VNet"), "network is of class 'VNet'"),
        (lambda c: c["ema"].state["_modules"].clear(), "'unet' is missing"),
        (lambda c: c.update(encoder=published.Persistent("OtherEncoder")), "encoder is of class 'OtherEncoder'"),
        (lambda c: c.update(encoder=[1]), "encoder is of class 'list'"),
        (drop_weights, "lacks the weights model.emb_noise.weight"),
        (other_shape, "have shape"),
        (infinite, "out_gain"),
        (more_weights, "unexpected weights model.surplus"),
        (cycle, "without end"),
        (option(frobnicate=1), "no option 'frobnicate'"),
        (option(model_channels=1 << 16), "larger network than its weights"),
        (option(channel_mult="abc"), "channel_mult='abc' must be a list"),
        (option(num_blocks=10**9), "num_blocks|larger"),
        (option(img_channels=-1), "img_channels"),
        (option(label_dim="many"), "label_dim"),
        (option(img_resolution=None), "img_resolution|resolution"),
        (option(sigma_data=float("nan")), "sigma_data"),
        (lambda c: c["ema"].state.update(_init_kwargs=[]), "_init_kwargs"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_clear_line(change, message, tmp_path):
    content = content_of()
    change(content)
    path = write(tmp_path / "published.pkl", content)
    with pytest.raises(UserError, match=message) as error:
        load_snapshot(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
