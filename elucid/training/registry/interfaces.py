"""What a part of each kind must offer; one that does not is refused by name before any of it is called."""

import torch
from torch import nn

from elucid.dnnlib.plugins import Interface
from elucid.training.losses.base import Loss
from elucid.training.preconds.base import Denoiser

SPEC_ARGUMENTS = ("img_resolution", "in_channels", "out_channels", "label_dim", "augment_dim")
"""What a network's constructor takes from the spec; everything else is the user's option."""

PARTS = ("model", "spec", "precision")
"""What a preconditioner's constructor is given; everything else is the user's option."""

_ADAPT = {"adapt": ("spec",)}

INTERFACES = {
    one.kind: one
    for one in (
        Interface("loss", Loss, {"forward": ("denoiser", "batch", "step")}),
        Interface("network", nn.Module, {"forward": ("x", "c_noise", "cond")}, SPEC_ARGUMENTS, kept=True),
        Interface("preconditioner", Denoiser, {"coefficients": ("sigma",)}, PARTS, kept=True),
        Interface("encoder", methods={**_ADAPT, "encode": ("raw",), "decode": ("x",)}),
        Interface("augment", methods={**_ADAPT, "__call__": ("batch",)}),
        Interface("optimizer", torch.optim.Optimizer, {"set_lr": ("step",)}, ("params",)),
        Interface("sampler", methods={"sigmas": ("denoise",), "__call__": ("denoise", "x", "sigmas", "noise")}),
    )
}
