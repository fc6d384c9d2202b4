"""Models exported to diffusers: its network and its pipelines compute what ours do; what has no equal is refused."""

import logging

import pytest
import torch
from torch.nn import functional as F

from elucid.api.export import to_diffusers
from elucid.dnnlib.errors import UserError
from elucid.training.config.build import make_denoiser
from elucid.training.guidance.clipping import clipped
from elucid.training.noise.schedules import Respaced
from elucid.training.samplers.ddim import DDIMSampler
from elucid.training.samplers.ddpm import DDPMSampler
from elucid.training.snapshots.diffusers_folder import diffusers_files
from elucid.training.snapshots.snapshot import Snapshot, save_snapshot
from elucid.training.types import NetSpec
from tests.snapshots import random_ddpm

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("safetensors")


def exported(denoiser, tmp_path):
    save_snapshot(tmp_path / "network-snapshot-000001.pkl", Snapshot({"ema": denoiser}))
    logging.getLogger("diffusers").setLevel(logging.ERROR)  # it recommends a package to load faster
    return to_diffusers(tmp_path / "network-snapshot-000001.pkl", tmp_path / "exported")


@pytest.mark.parametrize(
    "options",
    [
        {"attn_resolutions": [4]},
        {"classes": 3, "attn_resolutions": [4]},
        {"classes": 3, "learned": True, "attn_resolutions": [8, 4], "channels_per_head": 16},
        {"resblock_updown": False, "attn_resolutions": [8], "channel_mult": [1, 1, 2]},
        {"scale_shift_norm": False, "channels_per_head": 32, "channels": 1},
        {"num_heads": 1, "attn_resolutions": [8, 4]},
        {"num_heads": 4, "attn_resolutions": [4], "new_attention_order": True},
        {"channel_mult": [1, 2, 3], "num_blocks": 2, "size": (8, 16), "channels_per_head": 32, "attn_resolutions": [4]},
        {"channel_mult_emb": 2, "vector": {"augment": 9}, "dropout": 0.5},
        {"channel_mult": [1], "resblock_updown": False, "conv_resample": False},
    ],
)
def test_the_networks_are_equal(tmp_path, options):
    denoiser = random_ddpm(**options)
    folder, classes = exported(denoiser, tmp_path), options.get("classes", 0)
    network, told = diffusers.UNet2DModel.from_pretrained(folder, subfolder="unet", output_loading_info=True)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    x = torch.randn(4, *denoiser.spec.sample_shape, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0, 17, 500, 999])
    labels = torch.tensor([0, 1, classes - 1, classes]) if classes else None  # the last is no class
    cond = {"labels": F.one_hot(labels, classes + 1)[:, :-1]} if classes else {}
    with torch.no_grad():
        ours = denoiser.model(x, t.float(), denoiser.condition(x, cond))
        theirs = network(x, t, labels).sample
    assert ours.std() > 0.05
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "pipeline, options, precond, sampler, given",
    [
        ("DDIMPipeline", {}, {}, DDIMSampler(), {"eta": 0.0}),
        ("DDIMPipeline", {"size": (8, 16), "channels": 1}, {"beta_schedule": "cosine"}, DDIMSampler(1), {"eta": 1.0}),
        ("DDPMPipeline", {}, {"diffusion_steps": 100}, DDPMSampler(), {}),
        ("DDPMPipeline", {}, {"variance": "large"}, DDPMSampler(), {}),
        ("DDPMPipeline", {"learned": True}, {"beta_schedule": "cosine"}, DDPMSampler(), {}),
    ],
)
def test_the_pipelines_take_the_same_path(tmp_path, pipeline, options, precond, sampler, given):
    """Each x_t that the network sees, and the images, from the same noise."""
    denoiser = random_ddpm(precond=precond, **options)
    theirs = getattr(diffusers, pipeline).from_pretrained(exported(denoiser, tmp_path))
    theirs.set_progress_bar_config(disable=True)
    if pipeline == "DDIMPipeline":
        given = {**given, "use_clipped_model_output": True}
    seen: list[torch.Tensor] = []
    theirs.unet.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    generator = torch.Generator().manual_seed(1)
    images = theirs(batch_size=2, generator=generator, num_inference_steps=10, output_type="pt", **given).images

    generator.manual_seed(1)
    sigmas, path = Respaced(respacing="ddim10")(denoiser, 10), []

    def noise(x):
        return torch.randn(x.shape, generator=generator).to(x.dtype)

    def callback(x, sigma, x0):
        path.append(x / (1 + sigma**2).sqrt())

    first = noise(torch.empty(2, *denoiser.spec.sample_shape, dtype=torch.float64)) * (1 + sigmas[0] ** 2).sqrt()
    with torch.no_grad():
        ours = sampler(clipped(denoiser), first, sigmas, noise, callback)
    assert len(seen) == len(path) == 10 and path[-1].std() > 0.5
    for one, other in zip(seen, path, strict=True):
        torch.testing.assert_close(one.double(), other, atol=2e-5, rtol=0)
    torch.testing.assert_close(images, (ours / 2 + 0.5).clamp(0, 1).float(), atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    "named, options",
    [
        ("model_channels=16", {"model_channels": 16}),
        ("channel_mult=", {"channel_mult": [2, 2]}),
        ("conv_resample", {"resblock_updown": False, "conv_resample": False}),
        ("skip_rescale", {"skip_rescale": True}),
        ("activation", {"activation": "gelu"}),
        ("implicit_mlp", {"implicit_mlp": True}),
        ("num_heads=2", {"num_heads": 2, "attn_resolutions": [8, 4]}),
        ("channels_per_head=64", {"channel_mult": [1, 4], "attn_resolutions": [8, 4]}),
        ("num_heads_upsample=4", {"num_heads_upsample": 4, "attn_resolutions": [4]}),
        ("sigma_to", {"vector": {"sigma_to": 1}}),
        ("coords", {"spatial": {"coords": 2}}),
        ("rescale_timesteps", {"precond": {"rescale_timesteps": True, "diffusion_steps": 500}}),
    ],
)
def test_an_option_without_an_equal_is_named(named, options):
    with pytest.raises(UserError, match=named):
        diffusers_files(Snapshot({"ema": random_ddpm(**options)}))


def test_other_kinds_of_models_are_refused():
    spec = NetSpec((8, 8), 3)
    small = {"model_channels": 32, "channel_mult": [1], "num_blocks": 1}
    for named, network, precond in (("EDMPrecond", "adm_unet", "edm"), ("SongUNet", "ddpmpp", "ddpm")):
        denoiser = make_denoiser({"name": network, **small}, {"name": precond}, spec)
        with pytest.raises(UserError, match=named):
            diffusers_files(Snapshot({"ema": denoiser}))
    with pytest.raises(UserError, match="vae"):
        diffusers_files(Snapshot({"ema": random_ddpm()}, encoder={"name": "vae"}))
    with pytest.raises(UserError, match="label vectors"):
        diffusers_files(Snapshot({"ema": random_ddpm(classes=3)}, dataset={"class_counts": None}))
