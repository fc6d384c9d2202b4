"""Short names of components; others are given as `module:Name` or `file.py:Name`.

A name stands for a class and, if listed in `OPTIONS`, for options that differ from the class's defaults. Snapshots and
states store the first name of a class, so a name without options of its own must come first.
"""

from elucid.training.encoders.edm2 import EDM2_VAE
from elucid.training.registry import transformer_options

_T = "elucid.training."

NETWORKS = {
    "song_unet": _T + "networks.song_unet:SongUNet",
    "ddpmpp": _T + "networks.song_unet:SongUNet",
    "ncsnpp": _T + "networks.song_unet:SongUNet",
    "adm": _T + "networks.dhariwal_unet:DhariwalUNet",
    "edm2": _T + "networks.edm2.unet:EDM2UNet",
    "points": _T + "networks.points.point_net:PointNet",
    "points_mlp": _T + "networks.points.point_mlp:PointMLP",
    "adm_unet": _T + "networks.adm_unet:ADMUNet",
    "adm_classifier": _T + "networks.adm_classifier:ADMEncoder",
    **transformer_options.NAMES,
}

PRECONDS = {
    "vp": _T + "preconds.vp:VPPrecond",
    "ve": _T + "preconds.ve:VEPrecond",
    "iddpm": _T + "preconds.iddpm:iDDPMPrecond",
    "edm": _T + "preconds.edm:EDMPrecond",
    "edm2": _T + "preconds.edm2:EDM2Precond",
    "ddpm": _T + "preconds.ddpm:DDPMPrecond",
    "flow": _T + "preconds.flow:FlowPrecond",
    "cm": _T + "preconds.fewstep.consistency:ConsistencyPrecond",
    "trigflow": _T + "preconds.fewstep.trigflow:TrigFlowPrecond",
    "imm": _T + "preconds.fewstep.imm:IMMPrecond",
    "classifier": _T + "preconds.classifier:NoisyClassifier",
    "ddpm_classifier": _T + "preconds.ddpm:DDPMClassifier",
}

LOSSES = {
    "dsm": _T + "losses.dsm:DSM",
    "vp": _T + "losses.dsm:DSM",
    "ve": _T + "losses.dsm:DSM",
    "iddpm": _T + "losses.dsm:DSM",
    "edm": _T + "losses.dsm:DSM",
    "cdm": _T + "losses.consistency:ConsistencyLoss",
    "simple": _T + "losses.dsm:DSM",
    "hybrid": _T + "losses.variational:HybridLoss",
    "vlb": _T + "losses.variational:VariationalLoss",
    "kl": _T + "losses.variational:VariationalLoss",
    "flow": _T + "losses.flow:FlowMatching",
    "patch": _T + "losses.patch:PatchLoss",
    "ct": _T + "losses.fewstep.consistency_training:ConsistencyTraining",
    "ict": _T + "losses.fewstep.consistency_training:ConsistencyTraining",
    "ect": _T + "losses.fewstep.ect:ECT",
    "tcm": _T + "losses.fewstep.tcm:TCM",
    "progressive": _T + "losses.distillation.progressive:ProgressiveDistillation",
    "cd": _T + "losses.distillation.consistency:ConsistencyDistillation",
    "scm": _T + "losses.fewstep.scm:SCM",
    "scd": _T + "losses.distillation.scd:SCD",
    "mean_flow": _T + "losses.fewstep.mean_flow:MeanFlow",
    "improved_mean_flow": _T + "losses.fewstep.improved_mean_flow:ImprovedMeanFlow",
    "imm": _T + "losses.fewstep.imm:IMM",
    "guidance_distillation": _T + "losses.distillation.guidance:GuidanceDistillation",
    "dmd2": _T + "losses.distillation.dmd2:DMD2",
    "adversarial": _T + "losses.distillation.adversarial:AdversarialLoss",
    "uncertainty": _T + "losses.uncertainty:UncertaintyLoss",
    "alignment": _T + "losses.alignment:AlignmentLoss",
    "perceptual": _T + "losses.perceptual:PerceptualLoss",
    "cross_entropy": _T + "losses.cross_entropy:CrossEntropy",
}

NOISES = {
    "lognormal": _T + "noise.distributions:LogNormal",
    "loguniform": _T + "noise.distributions:LogUniform",
    "vp": _T + "noise.distributions:VPUniform",
    "levels": _T + "noise.distributions:DiscreteLevels",
    "uniform_t": _T + "noise.times:UniformTime",
    "logit_normal": _T + "noise.times:LogitNormalTime",
    "loss_aware": _T + "noise.loss_aware:LossAwareLevels",
    "truncated_student_t": _T + "noise.fewstep.student_t:TruncatedStudentT",
}

PROCESSES = {
    "linear": _T + "noise.processes:LinearProcess",
    "vp": _T + "noise.processes:VPProcess",
    "ve": _T + "noise.processes:VEProcess",
}

SCHEDULES = {
    "karras": _T + "noise.schedules:Karras",
    "linear": _T + "noise.schedules:Linear",
    "geometric": _T + "noise.schedules:Geometric",
    "vp": _T + "noise.schedules:VPSteps",
    "iddpm": _T + "noise.schedules:IDDPMSteps",
    "respaced": _T + "noise.schedules:Respaced",
    "flow": _T + "noise.flow_schedule:FlowSteps",
    "chosen": _T + "noise.chosen:ChosenLevels",
    "halvings": _T + "noise.fewstep.halvings:Halvings",
    "flow_map": _T + "noise.fewstep.flow_map:FlowMapSteps",
}

SAMPLERS = {
    "edm": _T + "samplers.edm:EDMSampler",
    "edm2": _T + "samplers.edm2:EDM2Sampler",
    "ablation": _T + "samplers.ablation:AblationSampler",
    "sde": _T + "samplers.sde:SDESampler",
    "dpmpp2m": _T + "samplers.dpmpp2m:DPMpp2MSampler",
    "ddpm": _T + "samplers.ddpm:DDPMSampler",
    "ddim": _T + "samplers.ddim:DDIMSampler",
    "consistency": _T + "samplers.fewstep.consistency:ConsistencySampler",
    "flow_map": _T + "samplers.fewstep.flow_map:FlowMapSampler",
    "flow_euler": _T + "samplers.flow.euler:FlowEuler",
    "flow_heun": _T + "samplers.flow.heun:FlowHeun",
    "flow_sde": _T + "samplers.flow.sde:FlowSDE",
    "dopri5": _T + "samplers.flow.dopri5:Dopri5",
}

GUIDANCES = {
    "cfg": _T + "guidance.classifier_free:ClassifierFreeGuidance",
    "autoguidance": _T + "guidance.autoguidance:AutoGuidance",
    "classifier": _T + "guidance.classifier:ClassifierGuidance",
    "distilled": _T + "guidance.distilled:DistilledGuidance",
}

POSTERIORS = {
    "tmpd": _T + "guidance.inverse.tmpd:TweedieMomentProjection",
    "pigdm": _T + "guidance.inverse.pigdm:PseudoinverseGuidance",
    "dps": _T + "guidance.inverse.dps:DPS",
    "diffpir": _T + "guidance.inverse.diffpir:DiffPIR",
    "replacement": _T + "guidance.inverse.replacement:Replacement",
}

OPERATORS = {
    "inpaint": _T + "inverse.operators.inpaint:Inpaint",
    "superres": _T + "inverse.operators.superres:SuperResolution",
    "blur": _T + "inverse.operators.blur:Blur",
    "identity": _T + "inverse.operators.identity:Identity",
    "fft_mask": _T + "inverse.operators.fourier:FourierMask",
}

FEATURES = {
    "efflite0": _T + "features.efflite0:EfficientNetLiteFeatures",
    "dinov2": _T + "features.dinov2:DinoFeatures",
}

ENCODERS = {
    "rgb": _T + "encoders.rgb:RGB",
    "arrays": _T + "encoders.arrays:Arrays",
    "vae": _T + "encoders.vae:VAE",
    "edm2_vae": _T + "encoders.vae:VAE",
}

TRANSFORMS = {
    "edm": _T + "transforms.augment_pipe:edm_augment",
    "pipe": _T + "transforms.augment_pipe:AugmentPipe",
    "random_crop": _T + "transforms.random_crop:RandomCrop",
    "lowres": _T + "transforms.lowres:LowRes",
    "maps": _T + "transforms.maps:ConditionMaps",
}

DATASETS = {
    "auto": _T + "data.dataset:open_dataset",
    "table": _T + "data.arrays.tables:ArrayTable",
}

OPTIMIZERS = {
    "adam": "torch.optim:Adam",
    "adamw": "torch.optim:AdamW",
    "adamax": "torch.optim:Adamax",
    "nadam": "torch.optim:NAdam",
    "radam": "torch.optim:RAdam",
    "adagrad": "torch.optim:Adagrad",
    "adadelta": "torch.optim:Adadelta",
    "adafactor": "torch.optim:Adafactor",
    "rmsprop": "torch.optim:RMSprop",
    "sgd": "torch.optim:SGD",
    "muon": _T + "optim.muon:Muon",
}

LR_SCHEDULES = {
    "constant": _T + "optim.schedules:Constant",
    "linear": _T + "optim.schedules:Linear",
    "cosine": _T + "optim.schedules:Cosine",
    "inverse_sqrt": _T + "optim.schedules:InverseSqrt",
}

EMAS = {
    "halflife": _T + "ema.halflife:HalflifeEMA",
    "power": _T + "ema.power:PowerEMA",
}

HOOKS = {
    "grid": _T + "hooks.grid:SampleGrid",
    "heldout": _T + "hooks.heldout:HeldoutLoss",
}

LOGGERS = {
    "console": _T + "loggers.console:Console",
    "jsonl": _T + "loggers.jsonl:JSONLines",
    "mlflow": _T + "loggers.mlflow:MLflow",
    "tensorboard": _T + "loggers.tensorboard:TensorBoard",
    "trackio": _T + "loggers.trackio:Trackio",
    "wandb": _T + "loggers.wandb:WandB",
}

TABLES: dict[str, dict[str, str]] = {
    "network": NETWORKS,
    "preconditioner": PRECONDS,
    "loss": LOSSES,
    "noise": NOISES,
    "process": PROCESSES,
    "schedule": SCHEDULES,
    "sampler": SAMPLERS,
    "guidance": GUIDANCES,
    "posterior": POSTERIORS,
    "operator": OPERATORS,
    "features": FEATURES,
    "encoder": ENCODERS,
    "transform": TRANSFORMS,
    "dataset": DATASETS,
    "optimizer": OPTIMIZERS,
    "lr_schedule": LR_SCHEDULES,
    "ema": EMAS,
    "hook": HOOKS,
    "logger": LOGGERS,
    "module": {},
}
"""The table of names for each kind of component."""

OPTIONS: dict[str, dict[str, dict]] = {
    "network": {
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
        **transformer_options.OPTIONS,
    },
    "loss": {
        "vp": {"noise": {"name": "vp"}},
        "ve": {"noise": {"name": "loguniform"}},
        "iddpm": {"noise": {"name": "levels"}},
        "flow": {"noise": {"name": "uniform_t"}},
        "simple": {"noise": {"name": "levels"}},
        "hybrid": {"noise": {"name": "levels"}},
        "vlb": {"noise": {"name": "levels"}},
        "kl": {"noise": {"name": "levels"}, "whole": True},
        "cd": {"curriculum": "fixed", "start": 39, "end": 39, "adaptive": False},
        "ict": {
            "curriculum": "doubling",
            "start": 10,
            "end": 1280,
            "target_decay": None,
            "index": "lognormal",
            "distance": "huber",
            "weighting": "gap",
        },
        "tcm": {"noise": {"name": "truncated_student_t"}},
        "ect": {"noise": {"name": "lognormal", "P_mean": -1.1, "P_std": 2.0}},
        "scm": {"noise": {"name": "lognormal", "P_mean": -1.0, "P_std": 1.4}},
        "scd": {"noise": {"name": "lognormal", "P_mean": -1.0, "P_std": 1.4}},
        "imm": {"noise": {"name": "uniform_t"}},
    },
    "encoder": {"edm2_vae": EDM2_VAE},
}
"""Options that a short name implies, by kind."""

DEFAULT_COMPONENTS = {
    "noise": {"name": "lognormal"},
    "process": {"name": "linear"},
    "features": {"name": "efflite0"},
}
"""The default component of an argument of this kind, if the argument has no default of its own."""
