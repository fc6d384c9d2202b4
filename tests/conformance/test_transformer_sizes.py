"""The sizes of published transformers: names and shapes of public checkpoints, parameters and operations, on meta."""

import json
import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from elucid.training.config.build import make_network
from elucid.training.types import NetSpec
from tests import vectors

LISTS = vectors.cases("transformers/checkpoint_names/[!s]*")
TABLES = [path for path in vectors.cases("transformers/checkpoint_names/sizes-*") if path.stem != "sizes-sit"]
"""Those of SiT are DiT's."""
NOT_OURS = r"(net\.)?(pos_embed|feat_rope\..*|bn\..*|projectors\..*)"
"""Fixed tables, statistics of latents, and what REPA's loss owns."""


def network(published: dict):
    """The network of a published name such as `DiT-XL/2 256`, without weights."""
    name = published["name"].lower().replace("repa-e ", "repa ").replace("(22 + 6)", "")
    family, size, patch = re.search(r"(\w*?[djs]it|ddt)-(\w+)/(\d+)", name).groups()
    channels, *sides = published["input"][-3:]
    doubled = family in ("dit", "sit") and "repa" not in name  # with a variance
    spec = NetSpec(tuple(sides), channels, channels * (1 + doubled), vector={"labels": 1000})
    with torch.device("meta"):
        return make_network({"name": f"{family}-{size.replace('p', '.')}", "patch": int(patch)}, spec)


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_names_and_shapes_of_public_checkpoints(path):
    published = json.loads(path.read_text())
    state = {re.sub(r"^net\.", "", name): shape for name, shape in published["state"].items()}
    state = {name: shape for name, shape in state.items() if not re.fullmatch(NOT_OURS, name)}
    assert {name: list(one.shape) for name, one in network(published).state_dict().items()} == state


ROWS = [(path.stem, row) for path in TABLES for row in json.loads(path.read_text())]


@pytest.mark.parametrize(("table", "row"), ROWS, ids=[f"{table}-{row['name']}" for table, row in ROWS])
def test_parameters_and_operations(table, row):
    """GFLOP of a pass are two per multiply-add. REPA's projectors, 2048 wide, are of the loss here."""
    model = network(row)
    width = model.t_embedder.mlp[2].weight.shape[0]
    maps = [(width, 2048), (2048, 2048), (2048, 768)] if "REPA" in row["name"] else []
    count = sum(one.numel() for one in model.parameters())
    assert count + sum((n_in + 1) * n_out for n_in, n_out in maps) == row["trainable"]
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, *row["input"][-3:]), torch.zeros(1), {"labels": torch.zeros(1, 1000)})
    seen = counter.get_total_flops() + (
        sum(2 * 256 * n_in * n_out for n_in, n_out in maps) if table == "sizes-repa" else 0
    )
    assert seen / 1e9 == pytest.approx(row["gflop_forward"], abs=0.01)
