"""Published transformers as options: the form of each family, and its sizes.

A family's name alone (`dit`) is its smallest published size; `dit-xl` and the like are the others. Patches are those of
the smallest tokens at 256 pixels. Each is an ordinary option, e.g. `--arch=dit-b --set network.patch=4`.
"""

_T = "elucid.training.networks.transformers."
_TRANSFORMER, _DDT = _T + "transformer:Transformer", _T + "ddt:DDT"

CLASSES = {"dit": _TRANSFORMER, "sit": _TRANSFORMER, "jit": _TRANSFORMER, "lightningdit": _TRANSFORMER, "ddt": _DDT}
"""The class of each family."""

FORMS: dict[str, dict] = {
    "dit": {"patch": 2},
    "sit": {"patch": 2},
    "jit": {
        "patch": 16,
        "norm": "rms",
        "mlp": "swiglu",
        "qk_norm": True,
        "rotary": True,
        "context_tokens": 32,
        "dropout_blocks": "middle",
    },
    "lightningdit": {"patch": 1, "norm": "rms", "mlp": "swiglu", "rotary": True},
    "ddt": {"patch": 2},
}
"""DiT (Peebles & Xie 2022) and SiT (Ma et al. 2024) share a form; JiT (Li & He 2025), LightningDiT (Yao & Wang 2025),
DDT (Wang et al. 2025). Patches of 4 and 8 were published for DiT and SiT, of 32 for JiT at 512 pixels."""


def _size(depth: int, model_channels: int, num_heads: int, **more) -> dict:
    return {"depth": depth, "model_channels": model_channels, "num_heads": num_heads, **more}


_DIT = {"s": _size(12, 384, 6), "b": _size(12, 768, 12), "l": _size(24, 1024, 16), "xl": _size(28, 1152, 16)}

SIZES: dict[str, dict[str, dict]] = {
    "dit": _DIT,
    "sit": _DIT,
    "jit": {
        "b": _size(12, 768, 12, bottleneck=128, context_start=4),
        "l": _size(24, 1024, 16, bottleneck=128, context_start=8),
        "h": _size(32, 1280, 16, bottleneck=256, context_start=10, dropout=0.2),
        "g": _size(40, 1664, 16, bottleneck=256, context_start=10, dropout=0.2),
    },
    "lightningdit": {
        "b": _DIT["b"],
        "xl": _DIT["xl"],
        "1.0b": _size(24, 1536, 24),
        "1.6b": _size(28, 1792, 28),
    },
    "ddt": {"xl": _size(28, 1152, 16, encoder_depth=22)},
}
"""The sizes of each family, smallest first."""

NAMES = {"transformer": _TRANSFORMER} | {
    name: CLASSES[family] for family, sizes in SIZES.items() for name in (family, *(f"{family}-{one}" for one in sizes))
}
"""The class of each short name; `transformer` is the plain one, without options of its own."""

OPTIONS = {family: FORMS[family] | next(iter(sizes.values())) for family, sizes in SIZES.items()} | {
    f"{family}-{name}": FORMS[family] | size for family, sizes in SIZES.items() for name, size in sizes.items()
}
"""The options that a short name implies."""
