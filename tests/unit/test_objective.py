"""The objective: what it tells about its parameters, and the tree of its output."""

import pytest
import torch
from torch.utils import _pytree as pytree

from elucid.training.config.build import make_denoiser
from elucid.training.losses.consistency import ConsistencyLoss
from elucid.training.losses.dsm import DSM
from elucid.training.losses.patch import PatchLoss
from elucid.training.noise.distributions import LogNormal
from elucid.training.objective import Objective
from elucid.training.types import Batch, LossOutput, NetSpec
from tests.oracles import GaussianDenoiser, step_at


class Mine(DSM):
    """A loss from outside, which may leave out what it likes."""


def edm() -> DSM:
    return DSM(LogNormal())


LOSSES = {"edm": edm, "cdm": lambda: ConsistencyLoss(edm(), martingale_steps=2), "patch": lambda: PatchLoss(edm())}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("network", ["ddpmpp", "ncsnpp", "adm"])
def test_classes_that_say_so_use_all_parameters(network, loss):
    loss = LOSSES[loss]()
    options = {"model_channels": 16, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [8]}
    spec = loss.adapt(NetSpec((8, 8), 1, vector={"labels": 2, "augment": 3}))
    objective = Objective(make_denoiser({"name": network, **options}, {"name": "edm"}, spec).train(), loss)
    assert objective.uses_all_parameters
    batch = Batch(torch.randn(2, 1, 8, 8), {"labels": torch.eye(2), "augment": torch.zeros(2, 3)})
    objective(batch, step_at(batch_size=2)).loss.sum().backward()
    assert all(one.grad is not None for one in objective.parameters())


def test_classes_that_say_nothing_do_not_inherit_it():
    known = Objective(
        make_denoiser({"name": "ddpmpp", "model_channels": 16}, {"name": "edm"}, NetSpec((8, 8), 1)), edm()
    )
    assert known.uses_all_parameters
    for loss in (Mine(LogNormal()), PatchLoss(Mine(LogNormal()))):
        assert not Objective(known.denoiser, loss).uses_all_parameters
    assert not Objective(GaussianDenoiser(), edm()).uses_all_parameters


def test_the_output_is_a_tree_of_tensors():
    out = LossOutput(torch.ones(2), {"loss": torch.zeros(2)})
    leaves, tree = pytree.tree_flatten(out)
    assert len(leaves) == 2 and all(isinstance(one, torch.Tensor) for one in leaves)
    assert pytree.tree_unflatten(leaves, tree).terms.keys() == {"loss"}
