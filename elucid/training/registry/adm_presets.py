"""Options of published networks of the ADM family, by the names of the programs that trained them.

From the papers' tables of hyperparameters and the flags that the programs' documentation gives for each checkpoint:
ADM (Dhariwal & Nichol 2021), improved DDPM (Nichol & Dhariwal 2021), and minimal-diffusion's class-conditional DDPM.
`attention_resolutions` lists sides in pixels. `registry/adm_options.py` translates.
"""

from typing import Any

ADM: dict[str, Any] = {
    "attention_resolutions": "32,16,8",
    "num_channels": 256,
    "num_res_blocks": 2,
    "num_head_channels": 64,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
    "use_new_attention_order": False,
    "dropout": 0.0,
    "class_cond": True,
    "learn_sigma": True,
    "noise_schedule": "linear",
    "diffusion_steps": 1000,
    "rescale_timesteps": False,
}
CLASSIFIER: dict[str, Any] = {
    "attention_resolutions": "32,16,8",
    "classifier_width": 128,
    "classifier_depth": 2,
    "classifier_pool": "attention",
    "num_head_channels": 64,
    "resblock_updown": True,
    "use_scale_shift_norm": True,
    "noise_schedule": "linear",
    "diffusion_steps": 1000,
}
IMPROVED: dict[str, Any] = {
    "attention_resolutions": "16,8",
    "num_channels": 128,
    "num_res_blocks": 3,
    "num_heads": 4,
    "resblock_updown": False,
    "conv_resample": True,
    "use_scale_shift_norm": True,
    "use_new_attention_order": False,
    "dropout": 0.0,
    "class_cond": False,
    "learn_sigma": True,
    "noise_schedule": "cosine",
    "diffusion_steps": 4000,
    "rescale_timesteps": True,
}
MINIMAL: dict[str, Any] = {
    "num_channels": 64,
    "num_res_blocks": 3,
    "num_head_channels": 64,
    "dropout": 0.1,
    "learn_sigma": False,
    "noise_schedule": "cosine",
    "diffusion_steps": 1000,
}
"""What is known of minimal-diffusion's networks; the rest must be given or is told by the weights."""

AT_64: dict[str, Any] = {"image_size": 64, "channel_mult": [1, 2, 3, 4]}
AT_128: dict[str, Any] = {"image_size": 128, "channel_mult": [1, 1, 2, 3, 4]}
AT_256: dict[str, Any] = {"image_size": 256, "channel_mult": [1, 1, 2, 2, 4, 4]}
AT_512: dict[str, Any] = {"image_size": 512, "channel_mult": [0.5, 1, 1, 2, 2, 4, 4]}
AT_32: dict[str, Any] = {"image_size": 32, "channel_mult": [1, 2, 2, 2]}
UPSAMPLER: dict[str, Any] = {"num_channels": 192, "channel_mult": [1, 1, 2, 2, 4, 4]}

PRESETS: dict[str, dict[str, Any]] = {
    "imagenet64": {
        **ADM, **AT_64, "num_channels": 192, "num_res_blocks": 3, "use_new_attention_order": True, "dropout": 0.1,
        "noise_schedule": "cosine",
    },
    "imagenet128": {**ADM, **AT_128, "num_head_channels": -1, "num_heads": 4},
    "imagenet256": {**ADM, **AT_256},
    "imagenet256_uncond": {**ADM, **AT_256, "class_cond": False},
    "imagenet512": {**ADM, **AT_512},
    "lsun256": {**ADM, **AT_256, "class_cond": False, "dropout": 0.1},
    "upsample_64_256": {
        **ADM, **UPSAMPLER, "large_size": 256, "small_size": 64, "num_head_channels": -1, "num_heads": 4,
    },
    "upsample_128_512": {
        **ADM, **UPSAMPLER, "large_size": 512, "small_size": 128, "attention_resolutions": "32,16",
    },
    "classifier64": {**CLASSIFIER, **AT_64, "classifier_depth": 4, "noise_schedule": "cosine"},
    "classifier128": {**CLASSIFIER, **AT_128},
    "classifier256": {**CLASSIFIER, **AT_256},
    "classifier512": {**CLASSIFIER, **AT_512},
    "improved_cifar10": {**IMPROVED, **AT_32, "dropout": 0.3},
    "improved_imagenet64": {**IMPROVED, **AT_64},
    "improved_imagenet64_cond": {
        **IMPROVED, **AT_64, "num_channels": 192, "class_cond": True, "rescale_timesteps": False,
    },
    "improved_lsun256": {
        **IMPROVED, **AT_256, "num_res_blocks": 2, "num_heads": 1, "use_scale_shift_norm": False,
        "attention_resolutions": "16", "noise_schedule": "linear", "diffusion_steps": 1000,
        "rescale_timesteps": False,
    },
    "improved_upsample_64_256": {
        **IMPROVED, **UPSAMPLER, "large_size": 256, "small_size": 64, "num_res_blocks": 2, "class_cond": True,
        "noise_schedule": "linear", "rescale_timesteps": False,
    },
    "minimal": MINIMAL,
    "minimal_small": {**MINIMAL, "num_channels": 32, "num_res_blocks": 2, "num_head_channels": 32},
    "minimal_large": {**MINIMAL, "num_channels": 192},
}  # fmt: skip
"""Options by preset. Those named minimal go with any `image_size`."""
