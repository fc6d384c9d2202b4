"""Writes pickles of the form of the EDM family's published checkpoints, with weights by the vectors' formula.

The modules that such a pickle names do not exist here; stand-ins are put into `sys.modules` while one is written.
"""

import pickle
import sys
import types
from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from tests import vectors

BUFFERS = ("freqs", "phases")
SOURCE = "raise SystemExit('the source text inside a checkpoint was run')\n"


class EasyDict(dict):
    """Pickled as `dnnlib.util.EasyDict`."""


def _reconstruct_persistent_obj(meta):
    raise AssertionError("a checkpoint's object was reconstructed by its own means")


class Persistent:
    """Pickled as a call of the family's reconstructor."""

    def __init__(self, class_name, init_args=(), init_kwargs=None, **state):
        self.class_name = class_name
        self.state = {"training": False, "_parameters": OrderedDict(), "_buffers": OrderedDict(), **state}
        self.state |= {"_non_persistent_buffers_set": set(), "_modules": OrderedDict()}
        self.state |= {"_init_args": init_args, "_init_kwargs": EasyDict(init_kwargs or {})}

    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": self.class_name}
        return _reconstruct_persistent_obj, (EasyDict(**meta, state=self.state),)

    def child(self, name):
        return self.state["_modules"].get(name)


def dumps(content, protocol=4) -> bytes:
    """The pickle, with the names that the published files have."""
    names = ("dnnlib", "dnnlib.util", "torch_utils", "torch_utils.persistence")
    stubs = {name: types.ModuleType(name) for name in names}
    util, persistence = stubs["dnnlib.util"], stubs["torch_utils.persistence"]
    util.EasyDict, persistence._reconstruct_persistent_obj = EasyDict, _reconstruct_persistent_obj
    saved = {name: sys.modules.get(name) for name in stubs}
    named = {EasyDict: "dnnlib.util", _reconstruct_persistent_obj: "torch_utils.persistence"}
    own = {thing: thing.__module__ for thing in named}
    try:
        sys.modules.update(stubs)
        for thing, module in named.items():
            thing.__module__ = module
        return pickle.dumps(content, protocol=protocol)
    finally:
        for thing, module in own.items():
            thing.__module__ = module
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def module_tree(root: Persistent, weights: dict[str, torch.Tensor]) -> Persistent:
    """Hang weights by dotted name into a tree of recorded layers and plain torch containers."""
    for name, value in weights.items():
        *path, leaf = name.split(".")
        node = root
        for depth, step in enumerate(path):
            modules = node._modules if isinstance(node, nn.Module) else node.state["_modules"]
            if step not in modules:
                container = {"enc": nn.ModuleDict, "dec": nn.ModuleDict}.get(step)
                numbered = depth + 1 < len(path) and path[depth + 1].isdigit()
                made = container() if container else nn.Sequential() if numbered else Persistent("Conv2d")
                if numbered:
                    made._modules.update({"1": nn.SiLU(), "3": nn.SiLU(), "5": nn.SiLU()})
                modules[step] = made
            node = modules[step]
        group = "_buffers" if leaf in BUFFERS else "_parameters"
        node.state[group][leaf] = value if leaf in BUFFERS else nn.Parameter(value)
        if leaf == "weight":  # the family keeps its filters as buffers, and an unused one as None
            node.state["_buffers"]["resample_filter"] = torch.ones(1, 1, 2, 2) / 4
            node.state["_parameters"].setdefault("bias", None)
    return root


def checkpoint(case: dict, kind: str, network: str, precond_kwargs: dict, network_kwargs: dict, weights=None) -> dict:
    """What a published file holds: the averaged denoiser, and records of the loss and the augmentation."""
    if weights is None:
        weights = {
            name.removeprefix("model."): vectors.formula(case["salt"], name, shape)
            for name, shape in vectors.parameters_of(case).items()
        }
    model = module_tree(Persistent(network, init_kwargs=network_kwargs), weights)
    denoiser = Persistent(kind, init_kwargs=precond_kwargs, sigma_min=np.float64(0), sigma_max=np.float32(80))
    denoiser.state["_modules"]["model"] = model
    if kind == "iDDPMPrecond":
        denoiser.state["_buffers"]["u"] = torch.zeros(1001)
    return {
        "ema": denoiser,
        "loss_fn": Persistent("EDMLoss", P_mean=-1.2, P_std=1.2, sigma_data=0.5),
        "augment_pipe": Persistent("AugmentPipe", p=0.12, strengths=frozenset(["xflip"])),
        "dataset_kwargs": EasyDict(path="/data/afhq-64x64.zip", use_labels=False, resolution=64, dtype=torch.float32),
    }


def edm2_checkpoint(salt: str, kwargs: dict, shapes: dict[str, list[int]], encoder: Persistent | None = None) -> dict:
    """What a published EDM2 file holds: weights in float16, an encoder, and scalars as gains."""
    kwargs = {**kwargs, "use_fp16": kwargs.get("use_fp16", False)}
    weights = {name: vectors.formula(salt, name, shape).half() for name, shape in shapes.items()}
    inner = {name: kwargs[name] for name in kwargs if name not in ("use_fp16", "sigma_data", "logvar_channels")}
    denoiser = module_tree(Persistent("Precond", init_kwargs=kwargs), weights)
    unet = denoiser.child("unet")
    unet.class_name, unet.state["_init_kwargs"] = "UNet", EasyDict(inner)
    return {
        "ema": denoiser,
        "loss_fn": Persistent("EDM2Loss", P_mean=-0.4, P_std=1.0, sigma_data=0.5),
        "encoder": Persistent("StandardRGBEncoder") if encoder is None else encoder,
        "dataset_kwargs": EasyDict(path="/data/img64.zip", use_labels=True),
    }
