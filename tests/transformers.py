"""Transformers for tests: small ones of each family, and the options of those that vectors were recorded with."""

from elucid.training.networks.transformers.ddt import DDT
from elucid.training.networks.transformers.transformer import Transformer
from elucid.training.registry.names import NETWORKS
from elucid.training.registry.transformer_options import FORMS, NAMES

U_NETS = [name for name in NETWORKS if not name.startswith("points") and name not in NAMES]
SMALL = {
    "dit": {},
    "jit": {"bottleneck": 6, "context_tokens": 3, "context_start": 2},
    "lightningdit": {},
    "ddt": {"encoder_depth": 2},
}
"""The families, and their options beside those that they share; SiT's form is DiT's."""


def small(family: str, **options) -> dict:
    """A network of four blocks with all that its family has."""
    return {"name": family, "model_channels": 32, "depth": 4, "num_heads": 4, "patch": 2, **SMALL[family], **options}


def network(family: str, kwargs: dict, **more) -> Transformer | DDT:
    """The network that the recorded program was called with these arguments for."""
    options = {
        "img_resolution": kwargs.get("input_size", 8),
        "in_channels": kwargs["in_channels"],
        "out_channels": kwargs["in_channels"] * (2 if kwargs.get("learn_sigma") else 1),
        "vector": {"labels": kwargs["num_classes"]},
        "patch": kwargs["patch_size"],
        "model_channels": kwargs["hidden_size"],
        **more,
    }
    if family == "ddt":
        depths = {"depth": kwargs["num_blocks"], "encoder_depth": kwargs["num_encoder_blocks"]}
        return DDT(**options, **depths, num_heads=kwargs["num_groups"])
    if family == "jit":
        theirs = {
            "bottleneck": "bottleneck_dim",
            "context_tokens": "in_context_len",
            "context_start": "in_context_start",
        }
        options |= {
            **FORMS["jit"],
            **{name: kwargs[one] for name, one in theirs.items()},
            "patch": kwargs["patch_size"],
        }
    else:
        options |= {
            "norm": "rms" if kwargs.get("use_rmsnorm") else "layer",
            "mlp": "swiglu" if kwargs.get("use_swiglu") else "gelu",
            "rotary": kwargs.get("use_rope", False),
            "qk_norm": kwargs.get("use_qknorm", kwargs.get("qk_norm", False)),
            "shift": not kwargs.get("wo_shift", False),
            "null_class": kwargs.get("class_dropout_prob", 0.1) > 0,
        }
    return Transformer(**options, depth=kwargs["depth"], num_heads=kwargs["num_heads"])


def shrunk(preset: str) -> dict:
    """Options that make a preset's network small, of images of 16x16, and take a small encoder for DINOv2."""
    options = {"network.model_channels": 48, "network.depth": 2, "network.num_heads": 4}
    options |= {"network.patch": 4, "network.context_start": 1} if preset.startswith("jit") else {}
    options |= {"network.encoder_depth": 1} if preset.startswith("ddt") else {}
    aligned = {"loss.layer": "block2", "loss.width": 16, "loss.features.name": "efflite0"}
    return options | (aligned if preset.startswith(("repa", "ddt")) else {})
