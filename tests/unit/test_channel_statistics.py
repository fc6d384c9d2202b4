"""Statistics per channel of latents: there and back, measured, compared with what is stored, and what is refused."""

import json
import re
import zipfile

import numpy as np
import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.preparation.verify import verify
from elucid.training.config.build import make_denoiser
from elucid.training.config.data import measured_sigma_data
from elucid.training.config.latents import check_statistics, stored_encoder
from elucid.training.data.dataset import open_dataset
from elucid.training.data.npy import to_npy
from elucid.training.encoders.edm2 import EDM2_VAE
from elucid.training.encoders.statistics import ChannelStatistics
from elucid.training.encoders.vae import VAE
from elucid.training.losses.by_level import require_measurable
from elucid.training.registry.components import make, resolved
from elucid.training.sampling.options import SampleOptions
from elucid.training.sampling.pipeline import prepare_encoder
from elucid.training.snapshots.snapshot import Snapshot
from elucid.training.types import NetSpec
from tests.vaes import save_tiny_vae

EDM2 = {name: EDM2_VAE[name] for name in ("mean", "std")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("diffusers")
    return str(save_tiny_vae(tmp_path_factory.mktemp("vae") / "tiny"))


def moments_like(mean, std, count=40, seed=0):
    """Stored moments whose samples have these statistics per channel."""
    rng = np.random.default_rng(seed)
    mean, std = np.array(mean)[:, None, None], np.array(std)[:, None, None]
    means = mean + 0.8 * std * rng.standard_normal((count, len(mean), 8, 8))
    return np.concatenate([means, np.broadcast_to(0.6 * std, means.shape)], axis=1).astype(np.float32)


def save(path, moments, encoder=None):
    about = {"labels": None, **({"encoder": encoder} if encoder else {})}
    with zipfile.ZipFile(path, "w") as archive:
        for index, one in enumerate(moments):
            archive.writestr(f"00000/img{index:08d}.npy", to_npy(one))
        archive.writestr("dataset.json", json.dumps(about))
    return open_dataset(path, latents=True)


def test_each_channel_gets_the_deviation_and_back():
    statistics = ChannelStatistics([3.0, -1.0], [2.0, 5.0], final_std=0.25)
    raw = (
        torch.randn(4000, 2, 2, 2) * torch.tensor([2.0, 5.0])[:, None, None] + torch.tensor([3.0, -1.0])[:, None, None]
    )
    x = statistics.normalise(raw)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.full((2,), 0.25), rtol=0.05, atol=0)
    assert x.mean((0, 2, 3)).abs().max() < 0.01
    torch.testing.assert_close(statistics.restore(x), raw, rtol=1e-5, atol=1e-5)


def test_without_statistics_there_are_none():
    assert ChannelStatistics.of({"mean": None, "std": None, "scale": 1.0}) is None


def test_the_vae_normalises_by_them_and_keeps_them(folder):
    own = {"mean": [1, 2, 3, 4], "std": [4.0, 3.0, 2.0, 1.0]}
    component = {"name": "vae", "model": folder, **own, "final_std": 1.0}
    vae = make(component, "encoder").to("cpu")
    mean = torch.randn(1, 4, 8, 8)
    x = vae.encode(torch.cat([mean, torch.zeros_like(mean)], dim=1))
    wanted = (mean - torch.tensor([1.0, 2, 3, 4])[:, None, None]) / torch.tensor([4.0, 3, 2, 1])[:, None, None]
    torch.testing.assert_close(x, wanted)
    plain = VAE(folder, scale=1.0)
    assert (vae.decode(x).int() - plain.decode(mean).int()).abs().max() <= 1
    kept = json.loads(json.dumps(resolved(vae)))
    assert torch.equal(make(kept, "encoder").to("cpu").encode(torch.cat([mean, 0 * mean], 1)), x)
    assert kept["scale"] is None and kept["mean"] == own["mean"]


def test_edm2s_vae_is_fed_unit_pixels(folder):
    edm2 = make({"name": "edm2_vae", "model": folder}, "encoder").to("cpu")
    raw = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    # What an autoencoder sees of v in [0, 1] is what it sees in [-1, 1] of (v + 1) * 127.5.
    shifted = (raw / 255 + 1) * 127.5
    with torch.no_grad():
        posterior = edm2._autoencoder.encode(shifted / 127.5 - 1).latent_dist
    torch.testing.assert_close(edm2.moments(raw), torch.cat([posterior.mean, posterior.std], 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EDM2, r"EDM2's statistics.*pixels in \[0, 1\].*encoder.pixels=signed.*gray"),
        ({**EDM2, "scale": 0.18215, "pixels": "unit"}, "EDM2's statistics .* encoder.scale=0.18215"),
        ({"mean": [0, 0, 0, 0], "std": [1, 1, 1, 1], "scale": 1.0}, "statistics of raw latents.*encoder.scale=1.0"),
        ({"mean": [0, 0, 0, 0]}, "encoder.mean needs encoder.std"),
        ({"std": [1, 1, 1, 1]}, "encoder.std needs encoder.mean"),
        ({"mean": [0, 0], "std": [1, 1]}, "have 2 numbers, but .* 4 channels"),
        ({"mean": [0, 0], "std": [1]}, "encoder.mean has 2 numbers and encoder.std 1"),
        ({"mean": 3, "std": [1]}, "encoder.mean=3 must be a list"),
        ({"mean": [0], "std": ["a"]}, "encoder.std=.* must be a list of numbers"),
        ({"mean": [0], "std": [0]}, "above 0"),
        ({"mean": [float("nan")], "std": [1]}, "encoder.mean=.* must be a list of numbers"),
        ({"mean": [10**400], "std": [1]}, "encoder.mean=.* must be a list of numbers"),
        ({"mean": [0], "std": [1], "final_std": 0}, "encoder.final_std=0"),
        ({"pixels": "both"}, "encoder.pixels='both'"),
    ],
)
def test_what_does_not_go_together_is_refused(folder, options, message):
    with pytest.raises(UserError, match=message) as refused:
        VAE(**{"model": folder, **options})
    assert "\n" not in str(refused.value)


def test_zips_of_eight_channels_without_an_encoder_are_edm2s(tmp_path, capsys):
    dataset = save(tmp_path / "sd.zip", moments_like(**EDM2))
    assert dataset.encoder == {"name": "vae", **EDM2_VAE, "sha256": None}
    said = capsys.readouterr().err
    assert "sd.zip names no encoder" in said and "edm2_vae" in said and "encoder.pixels=signed" in said
    with pytest.raises(UserError, match="holds latents, not images"):
        open_dataset(tmp_path / "sd.zip")
    with pytest.raises(UserError, match="holds arrays, not pictures"):
        save(tmp_path / "four.zip", moments_like(**EDM2)[:, :4])


def test_many_folders_without_checksums_are_noted_once(tmp_path, capsys):
    for index, one in enumerate(moments_like(**EDM2, count=3)):
        (tmp_path / f"{index:05d}").mkdir()
        np.save(tmp_path / f"{index:05d}/img.npy", one)
    dataset = open_dataset(tmp_path, latents=True)
    assert len([dataset.image(index) for index in range(len(dataset))]) == 3
    assert capsys.readouterr().err.count("has no checksum") == 1


def test_held_out_latents_of_other_pixels_are_refused(tmp_path, folder):
    spec = NetSpec((8, 8), 4, latent=True)
    denoiser = make_denoiser({"name": "ddpmpp", "model_channels": 16, "num_blocks": 1}, {"name": "edm"}, spec)
    kept = {"name": "vae", **EDM2_VAE, "sha256": "0" * 64}
    dataset = save(tmp_path / "unit.zip", moments_like(**EDM2, count=2), kept)
    require_measurable(denoiser, make({"name": "edm2_vae", "model": folder}, "encoder"), dataset, "it")
    with pytest.raises(UserError, match="has latents of pixels unit, the model signed"):
        require_measurable(denoiser, VAE(folder), dataset, "it")
    other = make({"name": "edm2_vae", "model": folder}, "encoder").to("cpu")
    with pytest.raises(UserError, match="has latents of a VAE of weights 000000000000, the model "):
        require_measurable(denoiser, other, dataset, "it")


def test_a_snapshot_may_name_edm2s_encoder_alone(folder):
    """As a public checkpoint's, with the place of the VAE on this machine."""
    spec = NetSpec((8, 8), 4, latent=True)
    denoiser = make_denoiser({"name": "ddpmpp", "model_channels": 16, "num_blocks": 1}, {"name": "edm"}, spec)
    snapshot = Snapshot({"ema": denoiser}, encoder={"name": "edm2_vae"})
    encoder = prepare_encoder(snapshot, {"model": folder}, SampleOptions(), torch.device("cpu"))
    assert encoder.pixels == "unit" and encoder.statistics.mean == EDM2["mean"]
    assert resolved(encoder).items() >= {"name": "edm2_vae", **EDM2, "model": folder}.items()


@pytest.mark.parametrize(
    "data",
    [
        to_npy(np.zeros((8, 8, 8), np.float32))[:-50],
        b"",
        b"text",
        to_npy(np.zeros((1, 2, 8, 8), np.float32)),
        b"\x93NUMPY\x01\x00\x50\x00"
        + b"{'descr': '<f4', 'fortran_order': False, 'shape': (8, 1099511627776, 4)}".ljust(80),
    ],
    ids=["cut", "empty", "text", "flat", "huge"],
)
def test_damaged_arrays_that_name_no_encoder_are_named(tmp_path, data):
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(UserError, match="a.npy is (not a .npy|damaged)") as refused:
        open_dataset(tmp_path, latents=True)
    assert "\n" not in str(refused.value)


def test_pictures_beside_arrays_are_pictures(tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "z.png")
    np.save(tmp_path / "a.npy", np.zeros((8, 8, 8), np.float32))
    assert open_dataset(tmp_path).encoder is None and len(open_dataset(tmp_path)) == 1


def test_the_encoder_of_a_run_follows_from_data_and_options(tmp_path):
    dataset = save(tmp_path / "sd.zip", moments_like(**EDM2))
    flag = {"name": "vae"}  # --train_on_latents=1
    assert stored_encoder(flag, dataset) == {**dataset.encoder}
    assert stored_encoder({**flag, "model": "m"}, dataset) == {**dataset.encoder, "model": "m"}
    kept = {**dataset.encoder, "scale": None, "sha256": "a" * 64, "batch_size": 8}
    assert stored_encoder(kept, dataset)["sha256"] == "a" * 64  # a run that is resumed
    own = {"mean": [0, 0, 0, 0], "std": [1, 1, 1, 1]}
    assert stored_encoder({**flag, **own}, dataset).items() >= {**own, "pixels": "unit"}.items()
    assert stored_encoder({**flag, "pixels": "signed"}, dataset) == {**flag, "pixels": "signed"}
    assert stored_encoder({"name": "mine.py:Encoder"}, dataset) == {"name": "mine.py:Encoder"}
    with pytest.raises(UserError, match="train on them with `train_on_latents`=1"):
        stored_encoder({"name": "rgb"}, dataset)


PLAIN = {"name": "vae", "model": "m", "scale": 0.18215, "sha256": "0" * 64}


def test_edm2s_encoder_and_latents_of_signed_pixels_exclude_each_other(tmp_path):
    signed = save(tmp_path / "signed.zip", moments_like([0] * 4, [5] * 4), PLAIN)
    with pytest.raises(UserError, match=r"pixels in \[-1, 1\].*edm2_vae.*belong to \[0, 1\]"):
        stored_encoder({"name": "edm2_vae"}, signed)
    unit = save(tmp_path / "unit.zip", moments_like(**EDM2), {"name": "vae", **EDM2_VAE, "sha256": "0" * 64})
    with pytest.raises(UserError, match=r"pixels in \[0, 1\], but encoder.pixels is signed"):
        stored_encoder({"name": "vae", "pixels": "signed"}, unit)
    own = stored_encoder({"name": "vae", "mean": [0] * 4, "std": [5] * 4}, signed)
    assert "scale" not in own and own["sha256"] == PLAIN["sha256"]


def test_statistics_far_from_the_latents_are_refused_with_the_numbers(tmp_path, capsys):
    good = save(tmp_path / "good.zip", moments_like(**EDM2))
    check_statistics({"name": "vae"}, good)
    wide = save(tmp_path / "wide.zip", moments_like(EDM2["mean"], [3 * one for one in EDM2["std"]]))
    signed = save(tmp_path / "signed.zip", moments_like([0.5, 0.5, 0.5, 0.5], [5.5, 5.5, 5.5, 5.5]))
    for dataset in (wide, signed):
        with pytest.raises(UserError, match=r"\[5.81,3.25,0.12,-2.15\] and \[4.17,4.62,3.71,3.28\]") as refused:
            check_statistics({"name": "vae"}, dataset)
        own = dict(re.findall(r"--set='encoder\.(mean|std)=(\[.*?\])'", str(refused.value)))
        own = {name: json.loads(text) for name, text in own.items()}
        moments = np.stack([dataset.image(index) for index in range(len(dataset))])
        np.testing.assert_allclose(own["mean"], moments[:, :4].mean((0, 2, 3)), atol=1e-2)
        capsys.readouterr()
        check_statistics({"name": "vae", **own}, dataset)
        assert capsys.readouterr().out == ""
        check_statistics({"name": "vae", **EDM2}, dataset)
        assert capsys.readouterr().out.startswith("warning: the latents of ")
    check_statistics({"name": "vae", "pixels": "signed"}, signed)  # the VAE's own factor


def test_verify_and_sigma_data_count_normalised_latents(tmp_path, folder):
    dataset = save(tmp_path / "sd.zip", moments_like(**EDM2, count=200))
    lines = list(verify(tmp_path / "sd.zip", progress=False).lines())
    assert "encoder: stabilityai/sd-vae-ft-mse, mean [5.81," in "".join(lines)
    deviations = next(line for line in lines if line.startswith("std: ")).split()[1:]
    np.testing.assert_allclose(np.array(deviations, float), 0.5, rtol=0.03)
    flags = next(line for line in lines if "--set='encoder.mean=[" in line)
    measured = json.loads(re.search(r"encoder.std=(\[.*?\])", flags)[1])
    np.testing.assert_allclose(measured, EDM2["std"], rtol=0.03)
    encoder = stored_encoder({"name": "vae", "model": folder}, dataset)
    assert measured_sigma_data(dataset, encoder) == 0.5
    assert measured_sigma_data(dataset, {**encoder, "final_std": 1.0}) == 1.0
    with pytest.raises(UserError, match="precond.sigma_data=auto"):
        measured_sigma_data(dataset, {"name": "rgb"})


@pytest.mark.parametrize(
    "change", [{"std": [1, 2]}, {"mean": "x"}, {"pixels": 3}, {"final_std": None}, {"std": None}, {"mean": None}]
)
def test_a_damaged_note_of_statistics_is_named(tmp_path, change):
    encoder = {"name": "vae", **EDM2_VAE, "sha256": "0" * 64, **change}
    with pytest.raises(UserError, match='dataset.json: "encoder" is damaged'):
        save(tmp_path / "bad.zip", moments_like(**EDM2, count=2), encoder)
