"""A denoiser of discrete diffusion as a folder of the diffusers library: `unet/`, `scheduler/`, `model_index.json`."""

import json
from typing import Any

from elucid.torch_utils.guards.finite import require_finite
from elucid.training.noise.discrete import betas
from elucid.training.preconds.ddpm import DDPMPrecond
from elucid.training.snapshots.diffusers_unet import unet_config, unet_weights, unmapped
from elucid.training.snapshots.snapshot import Snapshot
from elucid.training.snapshots.weights_folder import safetensors_library

UNET = "unet/config.json"
INDEX = "model_index.json"
BETA_SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2"}
VARIANCES = {"small": "fixed_small", "large": "fixed_large", "learned": "learned_range"}


def diffusers_files(snapshot: Snapshot) -> dict[str, bytes]:
    """Return the files, by their names in the folder, of the first average for `DDPMPipeline.from_pretrained(folder)`.

    A model with classes gets no `model_index.json`, as no pipeline of the library gives classes to this network.
    Raises UserError naming the first option that has no equal there.
    """
    denoiser = accepted(snapshot)
    unet, scheduler = unet_config(denoiser.model), scheduler_config(denoiser)
    weights = unet_weights(denoiser.model)
    require_finite(weights, "the snapshot")
    files = {
        UNET: _json("UNet2DModel", unet),
        "unet/diffusion_pytorch_model.safetensors": safetensors_library().torch.save(weights, {"format": "pt"}),
        "scheduler/scheduler_config.json": _json("DDPMScheduler", scheduler),
    }
    if denoiser.spec.label_dim:
        return files
    parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    return {**files, INDEX: _json("DDPMPipeline", parts)}


def accepted(snapshot: Snapshot) -> DDPMPrecond:
    """Return the denoiser. Raises UserError for other kinds, latents, and conditions that are no classes."""
    denoiser, data = snapshot.ema, snapshot.dataset
    if type(denoiser) is not DDPMPrecond:
        raise unmapped(f"the preconditioning {type(denoiser).__name__}", "that of --precond=ddpm")
    spec = denoiser.spec
    if spec.latent or snapshot.encoder["name"] != "rgb":
        raise unmapped(f"the encoder {snapshot.encoder['name']}", "images as they are (encoder rgb)")
    if spec.spatial:
        raise unmapped(f"the map {next(iter(spec.spatial))!r} beside the image", "the image alone")
    if spec.label_dim and "class_counts" in data and data["class_counts"] is None:
        raise unmapped("the condition on label vectors", "classes")
    return denoiser


def scheduler_config(denoiser: DDPMPrecond) -> dict[str, Any]:
    """Return the constructor's options of the `DDPMScheduler` with the same betas, variance and clipping.

    Every k-th step is visited, the only selection that `DDIMScheduler` makes right, too. Raises UserError for scaled
    time steps.
    """
    if denoiser.time_scale != 1:
        raise unmapped(f"rescale_timesteps=True with diffusion_steps={denoiser.diffusion_steps}", "whole time steps")
    ends = betas("linear", denoiser.diffusion_steps) if denoiser.beta_schedule == "linear" else None
    return {
        "num_train_timesteps": denoiser.diffusion_steps,
        **({} if ends is None else {"beta_start": float(ends[0]), "beta_end": float(ends[-1])}),
        "beta_schedule": BETA_SCHEDULES[denoiser.beta_schedule],
        "variance_type": VARIANCES[denoiser.variance],
        "clip_sample": denoiser.clips,
        "clip_sample_range": 1.0,
        "prediction_type": "epsilon",
        "thresholding": False,
        "timestep_spacing": "leading",
        "steps_offset": 0,
        "rescale_betas_zero_snr": False,
    }


def _json(name: str, content: dict[str, Any]) -> bytes:
    return json.dumps({"_class_name": name, **content}, indent=2).encode() + b"\n"
