"""Networks: conditions as data, initial weights that can be drawn anew."""

import pickle

import pytest
import torch

from elucid.dnnlib.values import signature
from elucid.training.config.build import make_network
from elucid.training.registry.components import find
from elucid.training.types import NetSpec
from tests import transformers

SMALL = {"model_channels": 32, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]}
OF_IMAGES = [*transformers.U_NETS, *transformers.SMALL]
VECTOR = {"labels": 3, "augment": 2}


def network(name, vector=VECTOR, **options):
    chosen = transformers.small(name) if name in transformers.SMALL else {"name": name, **SMALL}
    return make_network({**chosen, **options}, NetSpec((8, 8), 1, vector=vector))


def cond(**more):
    return {"labels": torch.eye(3)[[0, 2]], "augment": torch.ones(2, 2), **more}


@pytest.mark.parametrize("options", [{}, {"implicit_mlp": True}])
@pytest.mark.parametrize("name", OF_IMAGES)
def test_made_without_weights_and_reset_is_the_same(name, options):
    if options.keys() - signature(find("network", name)).parameters.keys():
        pytest.skip("not an option of this network")
    torch.manual_seed(4)
    direct = network(name, **options)
    with torch.device("meta"):
        late = network(name, **options)
    late.to_empty(device="cpu")
    torch.manual_seed(4)
    for module in late.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    both = [{**dict(one.named_parameters()), **dict(one.named_buffers())} for one in (direct, late)]
    assert both[0].keys() == both[1].keys()
    different = [key for key, value in both[0].items() if not torch.equal(value, both[1][key])]
    assert not different


@pytest.mark.parametrize("name", OF_IMAGES)
def test_a_further_condition_changes_nothing_but_adds_itself(name):
    torch.manual_seed(4)
    plain = network(name)
    more = network(name, {**VECTOR, "further": 1})
    added = [key for key in more.state_dict() if key not in plain.state_dict()]
    assert added == ["map_further.weight"]
    tables = {"map_label.weight": "y_embedder.embedding_table.weight"} if name in transformers.SMALL else {}
    maps = {f"{plain.map_name(name)}.weight" for name in VECTOR}
    assert {tables.get(one, one) for one in maps} <= set(plain.state_dict())
    more.load_state_dict(plain.state_dict(), strict=False)
    for net in (plain, more):
        for parameter in net.parameters():
            parameter.data += 0.1 * torch.sin(1 + torch.arange(parameter.numel()).reshape(parameter.shape))
    x, c_noise = torch.randn(2, 1, 8, 8), torch.tensor([0.1, 0.7])
    zero, one = (more.eval()(x, c_noise, cond(further=torch.full((2, 1), value))) for value in (0.0, 1.0))
    assert torch.equal(zero, plain.eval()(x, c_noise, cond())) and not torch.equal(zero, one)
    one.sum().backward()
    assert more.map_further.weight.grad.norm() > 0


@pytest.mark.parametrize("name", OF_IMAGES)
def test_networks_can_be_pickled(name):
    net = network(name)
    copy = pickle.loads(pickle.dumps(net))
    assert all(torch.equal(value, copy.state_dict()[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", ["adm", "edm2"])
def test_dropout_up_to_a_side(name):
    options = {"model_channels": 32, "channel_mult": [1, 1, 1], "num_blocks": 1, "attn_resolutions": [], "dropout": 0.4}
    network = make_network({"name": name, **options, "dropout_side": 8}, NetSpec((16, 16), 1))
    blocks = [*network.enc.items(), *network.dec.items()]
    found = {block: part.dropout.p for block, part in blocks if hasattr(part, "dropout")}
    assert {rate for block, rate in found.items() if block.startswith("16x16")} == {0.0}
    assert {rate for block, rate in found.items() if not block.startswith("16x16")} == {0.4}
