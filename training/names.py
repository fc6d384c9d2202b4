"""Short names of components, data only; anything else may be given as `module:Name` or `file.py:Name`.

An entry is a class, or a class with options that differ from its defaults. Read next: `presets.py`.
"""

NETWORKS = {
    "ddpmpp": "training.networks.song_unet:SongUNet",
    "ncsnpp": "training.networks.song_unet:SongUNet",
    "adm": "training.networks.adm_unet:DhariwalUNet",
}

NETWORK_OPTIONS = {
    "ddpmpp": {"model_channels": 128, "channel_mult": [2, 2, 2], "dropout": 0.13, "resample_filter": [1, 1]},
    "ncsnpp": {
        "model_channels": 128,
        "channel_mult": [2, 2, 2],
        "dropout": 0.13,
        "resample_filter": [1, 3, 3, 1],
        "embedding_type": "fourier",
        "channel_mult_noise": 2,
        "encoder_type": "residual",
    },
    "adm": {"model_channels": 192, "channel_mult": [1, 2, 3, 4], "dropout": 0.13},
}

PRECONDS = {
    "vp": "training.preconds:VPPrecond",
    "ve": "training.preconds:VEPrecond",
    "iddpm": "training.preconds:iDDPMPrecond",
    "edm": "training.preconds:EDMPrecond",
}

LOSSES = {
    "vp": "training.losses.dsm:VPLoss",
    "ve": "training.losses.dsm:VELoss",
    "iddpm": "training.losses.dsm:IDDPMLoss",
    "edm": "training.losses.dsm:EDMLoss",
    "cdm": "training.losses.consistency:ConsistencyLoss",
    "patch": "training.losses.patch:PatchLoss",
}

ENCODERS = {
    "rgb": "training.encoders:RGB",
    "vae": "training.vae:VAE",
}

SAMPLERS = {
    "edm": "training.samplers.edm:EDMSampler",
    "ablation": "training.samplers.ablation:AblationSampler",
    "sde": "training.samplers.sde:SDESampler",
    "dpmpp2m": "training.samplers.dpmpp2m:DPMpp2MSampler",
}

AUGMENTS = {
    "edm": "training.augment:edm_augment",
    "pipe": "training.augment:AugmentPipe",
}

OPTIMIZERS = {
    "adam": "training.optimizer:Adam",
}
