"""Presets of train.py's flags. `--preset=NAME` selects one; explicit flags override it.

The published presets are from Karras et al. 2022, cdm-* from Daras et al. 2023, patch-* from Wang et al. 2023; those of
models with discrete noise levels (ddpm-*, landscape-*, adm-*) are in `discrete`, EDM2's in `edm2`, transformers' in
`transformers`, those of one and two steps in `fewstep`.
"""

from elucid.training.config.presets.discrete import DISCRETE_PRESETS
from elucid.training.config.presets.edm2 import EDM2_PRESETS
from elucid.training.config.presets.fewstep import FEWSTEP_PRESETS
from elucid.training.config.presets.transformers import TRANSFORMER_PRESETS

_AFHQ_SIZE = {"batch": 256, "cres": [1, 2, 2, 2], "lr": 2e-4}
_LARGE_ADM = {"arch": "adm", "lr": 1e-4, "ema": [50.0], "dropout": 0.10, "augment": 0.0, "fp16": True, "ls": 100}
_LATENT_PATCHES = {**_LARGE_ADM, "precond": "pedm", "train_on_latents": True, "batch_gpu": 32, "real_p": 0.5}

PRESETS = {
    "demo": {
        "cond": True,
        "arch": "ddpmpp",
        "cbase": 24,
        "cres": [1, 2],
        "batch": 32,
        "duration": 0.032,
        "lr": 2e-3,
        "ema": [0.003],
        "dropout": 0.0,
        "augment": 0.0,
        "label_dropout": 0.1,
        "tick": 4,
        "snap": 8,
        "dump": 2,
        "seed": 1,
        "set": [
            "network.num_blocks=1",
            "network.attn_resolutions=[8]",
            "lr_schedule.warmup_kimg=2",
            "lr_schedule.cooldown=0.5",
        ],
    },
    "demo-flow": {
        "cond": True,
        "arch": "transformer",
        "cbase": 96,
        "precond": "flow",
        "batch": 64,
        "duration": 0.1,
        "lr": 1e-3,
        "ema": [0.01],
        "augment": 0.0,
        "label_dropout": 0.1,
        "tick": 10,
        "snap": 5,
        "dump": 5,
        "seed": 1,
        "set": [
            "network.patch=4",
            "network.depth=6",
            "network.num_heads=4",
            "precond.prediction=x",
            "loss.clamp=0.05",
            "loss.noise.name=logit_normal",
            "loss.noise.P_mean=0.8",
            "loss.noise.P_std=0.8",
            "optimizer.betas=[0.9,0.95]",
            "lr_schedule.warmup_kimg=5",
        ],
    },
    "cifar10-cond-edm": {"cond": True, "arch": "ddpmpp"},
    "cifar10-uncond-edm": {"cond": False, "arch": "ddpmpp"},
    "cifar10-cond-vp": {"cond": True, "arch": "ddpmpp", "precond": "vp"},
    "cifar10-cond-ve": {"cond": True, "arch": "ncsnpp", "precond": "ve"},
    "ffhq-64": {"cond": False, "arch": "ddpmpp", **_AFHQ_SIZE, "dropout": 0.05, "augment": 0.15},
    "afhqv2-64": {"cond": False, "arch": "ddpmpp", **_AFHQ_SIZE, "dropout": 0.25, "augment": 0.15},
    "imagenet-64": {"cond": True, **_LARGE_ADM, "duration": 2500, "batch": 4096, "tick": 200},
    "cdm-cifar10-cond": {"cond": True, "arch": "ddpmpp", "precond": "cdm"},
    "cdm-cifar10-uncond": {"cond": False, "arch": "ddpmpp", "precond": "cdm"},
    "cdm-afhqv2-64": {
        "cond": False,
        "arch": "ddpmpp",
        "precond": "cdm",
        **_AFHQ_SIZE,
        "batch": 128,
        "dropout": 0.25,
        "augment": 0.15,
    },
    "patch-celeba-64": {
        "cond": False,
        "arch": "ddpmpp",
        "precond": "pedm",
        **_AFHQ_SIZE,
        "dropout": 0.05,
        "augment": 0.0,
        "real_p": 0.5,
    },
    "patch-lsun-256": {"cond": False, **_LATENT_PATCHES, "duration": 200, "batch": 1024},
    "patch-imagenet-256": {"cond": True, **_LATENT_PATCHES, "duration": 2500, "batch": 4096, "tick": 200},
    **DISCRETE_PRESETS,
    **EDM2_PRESETS,
    **TRANSFORMER_PRESETS,
    **FEWSTEP_PRESETS,
}
