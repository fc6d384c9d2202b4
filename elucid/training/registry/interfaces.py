"""The interface of each component kind. Components that do not implement it are rejected with a UserError."""

from elucid.dnnlib.plugins import Interface

SPEC_ARGUMENTS = ("img_resolution", "in_channels", "out_channels", "vector", "label_dim", "augment_dim", "features")
"""Arguments of network constructors that are filled in from the spec; all others are user options.

The first three are required, and so is `vector` {name: width} for conditional networks. `label_dim` and `augment_dim`
are the widths of these two conditions. A network that takes `features` returns its output and a dict of these inner
layers' outputs, unless `features` is empty.
"""

REQUIRED_OF_NETWORKS = SPEC_ARGUMENTS[:3]

PARTS = ("model", "spec", "precision")
"""Arguments passed to preconditioner constructors; all others are user options."""

_T = "elucid.training."
_SAMPLE = ("denoise", "x", "sigmas", "noise", "callback")

INTERFACES = {
    one.kind: one
    for one in (
        Interface(
            "loss",
            _T + "losses.base:Loss",
            {"forward": ("denoiser", "batch", "step")},
            optional={"after_step": ("denoiser", "step", "stepped"), "setup": ("denoiser", "load")},
        ),
        Interface(
            "network", "torch.nn:Module", {"forward": ("x", "c_noise", "cond")}, REQUIRED_OF_NETWORKS, in_snapshots=True
        ),
        Interface(
            "preconditioner",
            _T + "preconds.base:Preconditioned",
            {"coefficients": ("sigma",)},
            PARTS,
            in_snapshots=True,
        ),
        Interface("noise", _T + "noise.distributions:NoiseDistribution", {"sample": ("count", "denoiser", "device")}),
        Interface("process", _T + "noise.processes:Process"),
        Interface("schedule", _T + "noise.schedules:Schedule", {"levels": ("num_steps", "sigma_min", "sigma_max")}),
        Interface("sampler", _T + "samplers.base:Sampler", {"__call__": _SAMPLE}),
        Interface("guidance", _T + "preconds.wrapper:DenoiserWrapper", {}, ("denoiser",)),
        Interface(
            "posterior",
            _T + "guidance.inverse.base:PosteriorDenoiser",
            {"change": ("x0", "sigma", "seen", "pull")},
            ("denoiser", "problem"),
        ),
        Interface(
            "operator",
            _T + "inverse.operators.base:LinearOperator",
            {"__call__": ("images",), "adjoint": ("y",)},
        ),
        Interface("features", _T + "features.base:FeatureEncoder", {"features": ("images",)}),
        Interface("encoder", _T + "encoders.base:Encoder", {"encode": ("raw",), "decode": ("x",)}),
        Interface("transform", _T + "transforms.base:Transform", {"__call__": ("batch",)}),
        Interface("dataset", _T + "data.base:Dataset", {}, ("path",)),
        Interface("optimizer", "torch.optim:Optimizer", {}, ("params",)),
        Interface("lr_schedule", _T + "optim.schedules:LRSchedule", {}),
        Interface("ema", _T + "ema.base:EMA", {"update": ("denoiser", "step")}, ("denoiser",)),
        Interface("hook", _T + "hooks.base:Hook"),
        Interface("logger", _T + "loggers.base:Logger", {"values": ("values", "nimg")}, ("folder",)),
        Interface("module", "torch.nn:Module"),
    )
}
