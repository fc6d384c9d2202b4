"""Latents: shapes and statistics of the encoder, the autoencoder by every kind of name, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.training.config.build import make_encoder
from elucid.training.encoders.autoencoder import read_model, weights_hash
from elucid.training.encoders.vae import VAE
from elucid.training.registry.components import resolved
from elucid.training.types import NetSpec
from tests.vaes import as_hub_download, save_tiny_vae

pytest.importorskip("diffusers")
rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_vae(tmp_path_factory.mktemp("vae") / "tiny")


@pytest.fixture(scope="module")
def vae(folder):
    return VAE(str(folder)).to("cpu")


def pictures(count=3, channels=3, height=16, width=24):
    return torch.from_numpy(rng.integers(0, 256, (count, channels, height, width), dtype=np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_shapes_follow_from_the_config(vae, channels):
    spec = vae.adapt(NetSpec((16, 24), channels, vector={"labels": 5}))
    assert spec == NetSpec((8, 12), 4, vector={"labels": 5}, latent=True)
    latents = vae.encode(pictures(channels=channels))
    assert latents.shape == (3, *spec.sample_shape) and latents.dtype == torch.float32
    images = vae.decode(latents.double())
    assert images.shape == (3, 3, 16, 24) and images.dtype == torch.uint8
    assert not latents.requires_grad and images.float().std() > 1


def test_a_gray_image_is_a_gray_rgb_image(vae):
    gray = pictures(channels=1)
    assert torch.equal(vae.moments(gray), vae.moments(gray.expand(-1, 3, -1, -1)))


def test_samples_have_the_posterior_of_diffusers_times_the_factor(folder, vae):
    raw = pictures(1, width=16)
    with torch.no_grad():
        posterior = read_model(str(folder)).encode(raw / 127.5 - 1).latent_dist
    torch.manual_seed(0)
    samples = torch.cat([vae.encode(raw.expand(100, -1, -1, -1)) for _ in range(8)])
    deviations = (samples.mean(0) / 0.18215 - posterior.mean[0]) / posterior.std[0] * len(samples) ** 0.5
    assert deviations.abs().max() < 5 and 0.9 < deviations.std() < 1.1
    torch.testing.assert_close(samples.std(0) / 0.18215, posterior.std[0], rtol=0.15, atol=0)


def test_stored_moments_are_sampled_as_images_are(vae):
    raw = pictures()
    stored = vae.moments(raw)
    torch.manual_seed(1)
    once = vae.encode(raw)
    torch.manual_seed(1)
    assert torch.equal(vae.encode(stored), once) and not torch.equal(vae.encode(stored), once)
    assert vae.adapt(NetSpec((8, 12), 8, latent=True)) == vae.adapt(NetSpec((16, 24), 3))


def test_any_number_of_images_at_a_time_decodes_alike(folder):
    latents = torch.randn(5, 4, 8, 8)
    parts = [VAE(str(folder), batch_size=size).decode(latents).int() for size in (1, 2, 5)]
    assert all((part - parts[0]).abs().max() <= 1 for part in parts)
    assert torch.equal(VAE(str(folder), scale=1.0).decode(latents / 0.18215), VAE(str(folder)).decode(latents))


def test_the_decoder_undoes_factor_and_shift(tmp_path):
    path = save_tiny_vae(tmp_path / "shifted", scaling_factor=0.5, shift_factor=0.25)
    vae = VAE(str(path))
    mean = torch.randn(1, 4, 8, 8)
    latents = vae.encode(torch.cat([mean, torch.zeros_like(mean)], dim=1))
    torch.testing.assert_close(latents, (mean - 0.25) * 0.5)
    with torch.no_grad():
        wanted = read_model(str(path)).decode(mean).sample
    assert ((wanted * 127.5 + 128).clip(0, 255).floor() - vae.decode(latents)).abs().max() <= 1


def test_one_autoencoder_by_folder_file_and_hub_name(folder, tmp_path, monkeypatch):
    wanted = weights_hash(read_model(str(folder)))
    file = folder / "diffusion_pytorch_model.safetensors"
    pickled = shutil.copy(folder / "config.json", tmp_path) and tmp_path / "weights.ckpt"
    torch.save(read_model(str(folder)).state_dict(), pickled)
    as_hub_download(folder, tmp_path / "hub", "someone/some-vae")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("diffusers.utils.constants.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    for name in (str(file), str(pickled), "someone/some-vae"):
        assert VAE(name).to("cpu").sha256 == wanted
    assert weights_hash(read_model(str(save_tiny_vae(tmp_path / "other", seed=1)))) != wanted


def test_components_say_what_was_found(folder):
    component = {"name": "vae", "model": str(folder)}
    before, after = make_encoder(component), make_encoder(component, "cpu")
    assert resolved(before)["sha256"] is None and resolved(before)["scale"] == 0.18215
    kept = resolved(after)
    assert len(kept["sha256"]) == 64 and json.loads(json.dumps(kept)) == kept
    assert make_encoder(kept, "cpu").sha256 == kept["sha256"]


def test_loading_leaves_the_random_numbers_alone(folder):
    torch.manual_seed(0)
    wanted = torch.randn(3)
    torch.manual_seed(0)
    VAE(str(folder)).to("cpu")
    assert torch.equal(torch.randn(3), wanted)


def damaged(folder, tmp_path, what):
    """A copy of the autoencoder with one thing wrong."""
    copy = shutil.copytree(folder, tmp_path / what)
    weights, config = copy / "diffusion_pytorch_model.safetensors", copy / "config.json"
    if what == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif what == "lacking":
        from safetensors.torch import load_file, save_file

        state = load_file(weights)
        del state["decoder.conv_in.bias"]
        save_file(state, weights)
    elif what == "no json":
        config.write_text("{")
    else:
        change = {"other class": {"_class_name": "VQModel"}, "strange": {"block_out_channels": 3}}[what]
        config.write_text(json.dumps({**json.loads(config.read_text()), **change}))
    return str(copy)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("cut", "cut cannot be loaded"),
        ("lacking", "lacks the weights decoder.conv_in.bias"),
        ("no json", "not a valid JSON"),
        ("other class", "is of class VQModel; give an AutoencoderKL"),
        ("strange", "config.json is damaged"),
    ],
)
def test_a_damaged_autoencoder_is_refused(folder, tmp_path, what, message):
    with pytest.raises(UserError, match=message) as refused:
        VAE(damaged(folder, tmp_path, what)).to("cpu")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "nowhere/at/all"}, "VAE not found: nowhere/at/all"),
        ({"model": 3}, "must be a hub name"),
        ({"scale": 0}, "encoder.scale=0"),
        ({"batch_size": 0}, "encoder.batch_size=0"),
        ({"sha256": "f" * 64}, "other weights .* than those that encoded the latents .ffffffffffff.; give that VAE"),
    ],
)
def test_options_are_checked(folder, options, message):
    with pytest.raises(UserError, match=message):
        VAE(**{"model": str(folder), **options}).to("cpu")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (NetSpec((15, 16), 3), "by 2, which does not divide 16x15"),
        (NetSpec((16, 16), 4), "takes 3 channels, the dataset has 4"),
        (NetSpec((8, 8), 6, latent=True), "stores latents of 3 channels, but VAE .* has 4"),
    ],
)
def test_data_that_do_not_fit_are_refused(vae, spec, message):
    with pytest.raises(UserError, match=message):
        vae.adapt(spec)


def test_without_diffusers_one_line_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    with pytest.raises(UserError, match=r"diffusers .*pip install \.\[latents\]"):
        VAE(str(folder))
