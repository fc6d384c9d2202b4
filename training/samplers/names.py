"""Short names of samplers, for `--sampler`. Read next: `../generation.py`."""

SAMPLERS = {
    "edm": "training.samplers.edm:EDMSampler",
    "ablation": "training.samplers.ablation:AblationSampler",
}
