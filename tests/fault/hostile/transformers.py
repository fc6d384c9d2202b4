"""Hostile state dicts of transformers: damaged, of odd shapes, larger than their file, with code beside the weights."""

import argparse
from collections.abc import Iterator

import torch

from elucid.dnnlib.config import construct
from elucid.training.networks.transformers.transformer import Transformer
from elucid.training.snapshots.transformers.writer import original_state
from tests.fault.hostile.kit import Case, Kit
from tests.fault.hostile.torch_files import saved
from tests.fault.test_hostile_pickles import attacks

OPTIONS = {
    "img_resolution": 16, "in_channels": 3, "out_channels": 3, "vector": {"labels": 3}, "patch": 4, "bottleneck": 4,
    "model_channels": 24, "depth": 1, "num_heads": 2, "norm": "rms", "mlp": "swiglu", "rotary": True, "qk_norm": True,
}  # fmt: skip
"""A JiT, whose file tells all of it, and which needs no autoencoder."""

ZEROS = (
    ("pos_embed", (1, 1 << 20, 1)),
    ("pos_embed", (16,)),
    ("pos_embed", (1, 0, 24)),
    ("x_embedder.proj1.weight", ()),
    ("x_embedder.proj1.weight", (4, 0, 0, 0)),
    ("x_embedder.proj1.weight", (4, 3)),
    ("x_embedder.proj1.weight", (4, 3, 4)),
    ("x_embedder.proj.weight", (24, 3, 4, 4)),
    ("t_embedder.mlp.2.weight", (0, 24)),
    ("t_embedder.mlp.2.weight", ()),
    ("y_embedder.embedding_table.weight", (0, 24)),
    ("y_embedder.embedding_table.weight", ()),
    ("final_layer.linear.weight", (0, 0)),
    ("blocks.0.mlp.w12.weight", (1, 24)),
    ("blocks.0.mlp.w12.weight", ()),
    ("blocks.0.attn.q_norm.weight", (0,)),
    ("blocks.0.adaLN_modulation.1.weight", ()),
    ("blocks.9999.norm1.weight", (24,)),
    ("blocks.99999.norm1.weight", (24,)),
    ("\x1b[31m\u202e" * 100, (1,)),
    ("in_context_posemb", (1, 1 << 12, 24)),
)
"""Weights that take the place of whole ones, or stand beside them."""


def weights() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return original_state(construct(Transformer, OPTIONS))


def cases(kit: Kit) -> Iterator[Case]:
    good = weights()
    whole = kit.folder / "good" / "JiT.pt"
    whole.parent.mkdir(parents=True, exist_ok=True)
    whole.write_bytes(saved({"ema": good}))
    yield from kit.damaged("transformer", whole, cuts=8, flips=20)
    for number, (name, shape) in enumerate(ZEROS):
        yield kit.write("transformer", f"shape-{number}", saved({"ema": {**good, name: torch.zeros(shape)}}), ".pt")
    for name in good:
        lacking = {other: value for other, value in good.items() if other != name}
        known = ("y_embedder.embedding_table.weight", "pos_embed")  # a network without labels, a table that is made
        accepted = ("generate",) if name in known else ()
        yield kit.write("transformer", f"lacking-{name}", saved({"ema": lacking}), ".pt", accepted)
    bias, embedding = "final_layer.linear.bias", "x_embedder.proj1.weight"
    for name, change in {
        "nan": {bias: torch.full_like(good[bias], float("nan"))},
        "integers": {bias: torch.zeros(48, dtype=torch.int64)},
        "complex": {bias: torch.zeros(48, dtype=torch.complex64)},
        "wide": {bias: torch.zeros(1).expand(1 << 40)},
        "channels": {embedding: torch.zeros(1).expand(4, 1 << 30, 4, 4)},
        "patch": {embedding: torch.zeros(1).expand(4, 3, 1 << 15, 1 << 15)},
        "table": {"y_embedder.embedding_table.weight": torch.zeros(1).expand(1 << 30, 24)},
        "strings": {bias: "zeros"},
        "prefixes": {"a." + embedding: good[embedding], "b.": torch.zeros(1)},
    }.items():
        accepted = ("generate",) if name == "prefixes" else ()
        yield kit.write("transformer", name, saved({"ema": {**good, **change}}), ".pt", accepted)
    for name, (attack, _) in attacks(kit.canary).items():
        if name != "partial":
            content = {"ema": good, "args": argparse.Namespace(model=attack)}
            yield kit.write("transformer", f"args-{name}", saved(content, seal=False), ".pt")
