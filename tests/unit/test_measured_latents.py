"""`encode --measure`: the statistics of any autoencoder's latents, who decides the deviation, and what is refused."""

import json
import zipfile

import numpy as np
import pytest
import torch

import elucid
from elucid.dnnlib.errors import UserError
from elucid.preparation import encode as encoding
from elucid.preparation.encode import encode
from elucid.preparation.verify import verify
from elucid.training.config.latents import check_statistics, encoder_for
from elucid.training.data.dataset import open_dataset
from elucid.training.encoders.edm2 import EDM2_VAE
from elucid.training.registry.components import make, resolved
from tests.vaes import save_pictures, save_tiny_vae

pytest.importorskip("diffusers")

HOW = {"device": "cpu", "batch": 8, "progress": False}
FLOW, EDM = {"name": "flow"}, {"name": "edm"}
FLAG = {"name": "vae"}  # --train_on_latents=1


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """pictures.zip, and of autoencoders of 4, 16 and 32 channels the folder vaeN and latentsN.zip."""
    folder = tmp_path_factory.mktemp("measured")
    save_pictures(folder / "pictures.zip")
    for channels in (4, 16, 32):
        save_tiny_vae(folder / f"vae{channels}", channels)
        how = {**HOW, "model": str(folder / f"vae{channels}"), "measure": True}
        elucid.datasets.encode(folder / "pictures.zip", folder / f"latents{channels}.zip", **how)
    return folder


def moments_in(dataset):
    return torch.from_numpy(np.stack([dataset.image(index) for index in range(len(dataset))])).float()


@pytest.mark.parametrize("channels", [4, 16, 32])
def test_samples_of_measured_latents_are_normal_in_each_channel(place, channels):
    dataset = open_dataset(place / f"latents{channels}.zip", latents=True)
    check_statistics(FLAG, dataset)
    encoder = make(encoder_for(FLAG, dataset, FLOW), "encoder")
    assert encoder.adapt(elucid.training.types.NetSpec((8, 8), 2 * channels, latent=True)).image_channels == channels
    torch.manual_seed(0)
    x = torch.cat([encoder.encode(moments_in(dataset)) for _ in range(50)])
    # 24 pictures of 64 positions, each drawn 50 times: draws add an error below a hundredth to exact expectations.
    assert x.mean((0, 2, 3)).abs().max() < 0.02
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(channels), rtol=0.02, atol=0)
    shown = encoder.to("cpu").decode(x[:2])
    assert shown.shape == (2, 3, 16, 16) and shown.float().std() > 1


def test_they_are_the_statistics_that_verify_measures(place):
    verdict = verify(place / "latents4.zip", progress=False)
    kept = verdict.dataset.encoder
    assert kept["mean"] == verdict.mean.tolist() and kept["std"] == verdict.std.tolist()
    assert "scale" not in kept and "final_std" not in kept and len(kept["sha256"]) == 64
    assert verdict.overall == pytest.approx((0, 0.5), abs=1e-9)
    both = list(verdict.lines())
    assert any(line.startswith(f"encoder: {place / 'vae4'}, mean [") for line in both)


def test_a_random_part_may_be_measured(place, tmp_path):
    how = {**HOW, "model": str(place / "vae4"), "measure": True, "max_images": 9}
    report = encode(str(place / "pictures.zip"), tmp_path / "part.zip", **how)
    part, whole = (
        open_dataset(path, latents=True, use_labels=True) for path in (tmp_path / "part.zip", place / "latents4.zip")
    )
    assert report.count == len(part) == 9
    stored = [whole.image(index) for index in range(len(whole))]
    places = [next(i for i, one in enumerate(stored) if np.allclose(one, part.image(k), atol=1e-2)) for k in range(9)]
    assert len(set(places)) == 9 and max(places) > 9  # not the first ones
    assert all(np.array_equal(part.label(k), whole.label(i)) for k, i in enumerate(places))
    moments = np.stack([part.image(k) for k in range(9)]).astype(np.float64)
    np.testing.assert_allclose(report.encoder["mean"], moments[:, :4].mean((0, 2, 3)))


def test_sums_do_not_lose_a_small_deviation_beside_a_large_mean(place, tmp_path, monkeypatch):
    """A running sum in float32 would."""

    class Far(encoding.VAE):
        def numpy_moments(self, images):
            mean = 1000 + 1e-2 * np.random.default_rng(0).standard_normal((len(images), 4, 8, 8))
            return np.concatenate([mean, np.full_like(mean, 1e-6)], axis=1)

    monkeypatch.setattr(encoding, "VAE", Far)
    how = {**HOW, "model": str(place / "vae4"), "measure": True, "dtype": "float32"}
    report = encode(str(place / "pictures.zip"), tmp_path / "far.zip", **how)
    stored = moments_in(open_dataset(tmp_path / "far.zip", latents=True)).double()[:, :4]
    np.testing.assert_allclose(report.encoder["std"], stored.std((0, 2, 3), unbiased=False), rtol=1e-3)


def test_the_preconditioner_decides_the_deviation_unless_something_says_it(place, tmp_path):
    dataset = open_dataset(place / "latents4.zip", latents=True)
    assert encoder_for(FLAG, dataset, FLOW)["final_std"] == 1
    assert encoder_for(FLAG, dataset, EDM)["final_std"] == 0.5
    assert encoder_for({**FLAG, "final_std": 0.7}, dataset, FLOW)["final_std"] == 0.7
    own = {**FLAG, "mean": [0.0] * 4, "std": [1.0] * 4}
    assert encoder_for(own, dataset, FLOW).items() >= {**own, "final_std": 1.0}.items()
    how = {**HOW, "model": str(place / "vae4"), "measure": True, "final_std": 2.0}
    encode(str(place / "pictures.zip"), tmp_path / "two.zip", **how)
    stated = open_dataset(tmp_path / "two.zip", latents=True)
    assert encoder_for(FLAG, stated, FLOW)["final_std"] == encoder_for(FLAG, stated, EDM)["final_std"] == 2
    # A run that goes on, or another one from its options, keeps what it had.
    kept = json.loads(json.dumps(resolved(make(encoder_for(FLAG, dataset, FLOW), "encoder").to("cpu"))))
    assert encoder_for(kept, dataset, EDM)["final_std"] == 1
    # Latents with a factor, images, and EDM2's statistics have no such choice.
    encode(str(place / "pictures.zip"), tmp_path / "plain.zip", **{**how, "measure": False, "final_std": None})
    assert "final_std" not in encoder_for(FLAG, open_dataset(tmp_path / "plain.zip", latents=True), FLOW)
    images = open_dataset(place / "pictures.zip")
    assert encoder_for({"name": "edm2_vae"}, images, FLOW) == {"name": "edm2_vae"}
    assert encoder_for({"name": "rgb"}, images, FLOW) == {"name": "rgb"}
    assert encoder_for(own, images, FLOW)["final_std"] == 1  # encoded at every step


def test_a_given_factor_takes_their_place_and_says_so(place, capsys):
    """As of a preset that trains by the published factor."""
    dataset = open_dataset(place / "latents4.zip", latents=True)
    chosen = encoder_for({**FLAG, "scale": 0.18215, "final_std": 1.0}, dataset, FLOW)
    assert "takes the place of the statistics measured" in capsys.readouterr().err
    encoder = make(chosen, "encoder")
    raw = torch.cat([torch.randn(1, 4, 8, 8), torch.zeros(1, 4, 8, 8)], 1)
    torch.testing.assert_close(encoder.encode(raw), raw[:, :4] * 0.18215)
    check_statistics(chosen, dataset)
    kept = json.loads(json.dumps(resolved(encoder)))
    assert encoder_for(kept, dataset, FLOW)["scale"] == 0.18215


def test_edm2s_form_may_have_statistics_of_its_own(place, tmp_path):
    how = {**HOW, "model": str(place / "vae4"), "encoder": "edm2_vae", "measure": True}
    kept = encode(str(place / "pictures.zip"), tmp_path / "own.zip", **how).encoder
    assert kept["pixels"] == "unit" and kept["mean"] != EDM2_VAE["mean"] and "final_std" not in kept
    dataset = open_dataset(tmp_path / "own.zip", latents=True)
    assert dataset.encoder == kept and dataset.dtype == np.float32
    check_statistics({"name": "vae"}, dataset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measure": True, "scale": 0.2}, "`measure` and `scale`=0.2 exclude each other"),
        ({"measure": True, "final_std": 0.0}, "`final_std`=0 must be a number above 0"),
        ({"final_std": 1.0}, "`final_std`=1 .* give `measure`, too"),
        ({"measure": True, "source": "latents4.zip"}, "holds latents, not images.*verify measures them"),
    ],
)
def test_what_cannot_be_measured_is_refused(place, tmp_path, options, message):
    source = str(place / options.pop("source", "pictures.zip"))
    with pytest.raises(UserError, match=message) as refused:
        encode(source, tmp_path / "a.zip", **{**HOW, "model": str(place / "vae4"), **options})
    assert "\n" not in str(refused.value) and not (tmp_path / "a.zip").exists()


def test_a_constant_channel_is_named(place, tmp_path, monkeypatch):
    class Flat(encoding.VAE):
        def numpy_moments(self, images):
            made = super().numpy_moments(images)
            made[:, 2], made[:, 6] = 3, 0
            return made

    monkeypatch.setattr(encoding, "VAE", Flat)
    with pytest.raises(UserError, match="channel 2 of the latents is the same everywhere"):
        encode(str(place / "pictures.zip"), tmp_path / "a.zip", model=str(place / "vae4"), measure=True, **HOW)
    assert not (tmp_path / "a.zip").exists()


def test_another_autoencoder_than_the_measured_one_is_refused(place, tmp_path):
    dataset = open_dataset(place / "latents4.zip", latents=True)
    other = save_tiny_vae(tmp_path / "other", seed=5)
    with pytest.raises(UserError, match="has other weights"):
        make(encoder_for({**FLAG, "model": str(other)}, dataset, FLOW), "encoder").to("cpu")
    with pytest.raises(UserError, match=r"statistics have 4 channels, those of VAE .*vae16 16; give the VAE that enc"):
        make(encoder_for({**FLAG, "model": str(place / "vae16")}, dataset, FLOW), "encoder")


def test_statistics_of_another_number_of_channels_are_refused(place):
    dataset = open_dataset(place / "latents4.zip", latents=True)
    with pytest.raises(UserError, match="have 3 numbers, but .*latents4.zip holds latents of 4 channels"):
        encoder_for({**FLAG, "mean": [0.0] * 3, "std": [1.0] * 3}, dataset, FLOW)


def test_a_damaged_note_of_measured_statistics_is_named(place, tmp_path):
    with zipfile.ZipFile(place / "latents4.zip") as old, zipfile.ZipFile(tmp_path / "bad.zip", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "dataset.json":
                about = json.loads(content)
                about["encoder"]["std"][1] = -1
                content = json.dumps(about).encode()
            new.writestr(name, content)
    with pytest.raises(UserError, match='dataset.json: "encoder" is damaged'):
        open_dataset(tmp_path / "bad.zip", latents=True)
