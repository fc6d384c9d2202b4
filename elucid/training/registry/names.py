"""Short names of components, data only; anything else may be given as `module:Name` or `file.py:Name`.

An entry is a class, or a class with options that differ from its defaults.
"""

NETWORKS = {
    "song_unet": "elucid.training.networks.song_unet:SongUNet",
    "ddpmpp": "elucid.training.networks.song_unet:SongUNet",
    "ncsnpp": "elucid.training.networks.song_unet:SongUNet",
    "adm": "elucid.training.networks.adm_unet:DhariwalUNet",
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
    "vp": "elucid.training.preconds.vp:VPPrecond",
    "ve": "elucid.training.preconds.ve:VEPrecond",
    "iddpm": "elucid.training.preconds.iddpm:iDDPMPrecond",
    "edm": "elucid.training.preconds.edm:EDMPrecond",
}

LOSSES = {
    "vp": "elucid.training.losses.dsm:VPLoss",
    "ve": "elucid.training.losses.dsm:VELoss",
    "iddpm": "elucid.training.losses.dsm:IDDPMLoss",
    "edm": "elucid.training.losses.dsm:EDMLoss",
    "cdm": "elucid.training.losses.consistency:ConsistencyLoss",
    "patch": "elucid.training.losses.patch:PatchLoss",
}

ENCODERS = {
    "rgb": "elucid.training.encoders.rgb:RGB",
    "vae": "elucid.training.encoders.vae:VAE",
}

SAMPLERS = {
    "edm": "elucid.training.samplers.edm:EDMSampler",
    "ablation": "elucid.training.samplers.ablation:AblationSampler",
    "sde": "elucid.training.samplers.sde:SDESampler",
    "dpmpp2m": "elucid.training.samplers.dpmpp2m:DPMpp2MSampler",
}

AUGMENTS = {
    "edm": "elucid.training.transforms.augment_pipe:edm_augment",
    "pipe": "elucid.training.transforms.augment_pipe:AugmentPipe",
}

OPTIMIZERS = {
    "adam": "elucid.training.optim.optimizers:Adam",
}
