"""Snapshots: what is written is what is read, by this program and by plain pickle; transfer; plug-ins."""

import copy
import pickle
import pickletools
import sys

import pytest
import torch

from elucid.dnnlib.config import construct
from elucid.dnnlib.errors import UserError
from elucid.training.networks.dhariwal_unet import DhariwalUNet
from elucid.training.networks.song_unet import SongUNet
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.preconds.iddpm import iDDPMPrecond
from elucid.training.preconds.vp import VPPrecond
from elucid.training.snapshots.records import assemble
from elucid.training.snapshots.snapshot import Snapshot, load_snapshot, save_snapshot
from elucid.training.snapshots.transfer import transfer
from elucid.training.snapshots.trust import load_class
from elucid.training.types import NetSpec


class PluginUNet(SongUNet):
    """A network from outside the program."""


def make_denoiser(precond=EDMPrecond, network=SongUNet, label_dim=2, width=8, **options):
    spec = precond.adapt(NetSpec((8, 8), 1, vector={"labels": label_dim}))
    given = {"img_resolution": 8, "in_channels": 1, "out_channels": spec.out_channels, "vector": spec.vector}
    given |= {"model_channels": width, "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4], "dropout": 0.1}
    denoiser = construct(precond, options, model=construct(network, given), spec=spec)
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return denoiser


def make_snapshot(**options):
    emas = {"0.5": make_denoiser(**options), "0.1": make_denoiser(**options)}
    dataset = {"name": "digits", "resolution": [8, 8], "class_names": ["a", "b"]}
    return Snapshot(emas, {"name": "rgb"}, dataset, {"loop": {"seed": 1, "rho": 7.5}, "betas": (0.9, None)}, 123456)


def same(first, second):
    x, sigma = torch.randn(3, 1, 8, 8), torch.tensor([0.1, 1.0, 7.0])
    cond = {"labels": torch.eye(2)[[0, 1, 0]]} if first.spec.label_dim else {}
    return torch.equal(copy.deepcopy(first).eval()(x, sigma, cond).x0, second(x, sigma, cond).x0)


@pytest.mark.parametrize(
    "precond, network", [(EDMPrecond, SongUNet), (VPPrecond, DhariwalUNet), (iDDPMPrecond, SongUNet)]
)
def test_round_trip(precond, network, tmp_path):
    torch.manual_seed(0)
    written = make_snapshot(precond=precond, network=network)
    path = tmp_path / "deep" / "network-snapshot-000123.pkl"
    save_snapshot(path, written)
    state = torch.get_rng_state()
    read = load_snapshot(path)
    assert torch.equal(torch.get_rng_state(), state), "reading must not draw random numbers"
    assert list(read.emas) == ["0.5", "0.1"] and read.ema is read.emas["0.5"]
    assert same(written.emas["0.5"], read.emas["0.5"]) and same(written.emas["0.1"], read.emas["0.1"])
    assert type(read.ema) is precond and read.ema.spec == written.ema.spec and not read.ema.training
    assert (read.encoder, read.dataset, read.nimg) == (written.encoder, written.dataset, written.nimg)
    assert read.options == {"loop": {"seed": 1, "rho": 7.5}, "betas": [0.9, None]}
    only = load_snapshot(path, ema="0.1")
    assert list(only.emas) == ["0.1"] and same(written.emas["0.1"], only.ema)
    with pytest.raises(UserError, match="no average '0.7'; the snapshot has 0.5, 0.1"):
        load_snapshot(path, ema="0.7")


def test_plain_pickle_reads_it_and_it_holds_no_code(tmp_path):
    written = make_snapshot()
    save_snapshot(tmp_path / "s.pkl", written)
    content = pickle.loads((tmp_path / "s.pkl").read_bytes())
    assert same(written.ema, content["ema"]) and content["emas"]["0.5"] is content["ema"]
    operations = list(pickletools.genops((tmp_path / "s.pkl").read_bytes()))
    assert sum(opcode.name in ("GLOBAL", "STACK_GLOBAL", "INST") for opcode, _, _ in operations) == 1
    texts = {argument for _, argument, _ in operations if isinstance(argument, str)}
    assert {"elucid.unpickle", "denoiser"} <= texts and not any("\n" in text for text in texts)


def test_same_content_same_bytes(tmp_path):
    written = make_snapshot()
    save_snapshot(tmp_path / "one.pkl", written)
    save_snapshot(tmp_path / "two.pkl", copy.deepcopy(written))
    save_snapshot(tmp_path / "three.pkl", load_snapshot(tmp_path / "one.pkl"))
    first = (tmp_path / "one.pkl").read_bytes()
    assert (tmp_path / "two.pkl").read_bytes() == first == (tmp_path / "three.pkl").read_bytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_types_are_read_as_float32(dtype, tmp_path):
    denoiser = make_denoiser().to(dtype)
    save_snapshot(tmp_path / "s.pkl", Snapshot({"a": denoiser}))
    read = load_snapshot(tmp_path / "s.pkl").ema
    for name, value in denoiser.state_dict().items():
        assert torch.equal(read.state_dict()[name], value.float()), name


def test_failure_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "s.pkl"
    save_snapshot(path, make_snapshot())
    before = path.read_bytes()
    for bad in (
        Snapshot({"a": make_denoiser()}, options={"when": object()}),
        Snapshot({"a": EDMPrecond(None, NetSpec((8, 8), 1))}),
    ):
        with pytest.raises(UserError, match="options.when is a object|has no recorded options"):
            save_snapshot(path, bad)
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_networks_from_outside_need_trust(tmp_path, monkeypatch):
    save_snapshot(tmp_path / "s.pkl", Snapshot({"a": make_denoiser(network=PluginUNet)}))
    assert type(load_snapshot(tmp_path / "s.pkl").ema.model) is PluginUNet  # its module is in use here already
    monkeypatch.delitem(sys.modules, PluginUNet.__module__)
    with pytest.raises(UserError, match="external code.* give `plugins`=.* or set ELUCID_PLUGINS="):
        load_snapshot(tmp_path / "s.pkl")

    (tmp_path / "nets.py").write_text(
        "from elucid.training.networks.song_unet import SongUNet\nclass Mine(SongUNet): pass\n"
    )
    monkeypatch.setenv("ELUCID_PLUGINS", f"other.nets,{tmp_path / 'nets.py'}")
    assert issubclass(load_class({}, "elucid_plugin_nets:Mine", SongUNet), SongUNet)
    with pytest.raises(UserError, match="which is not a subclass of EDMPrecond; refused"):
        load_class({}, "elucid_plugin_nets:Mine", EDMPrecond)


def test_transfer():
    torch.manual_seed(1)
    source, target = make_denoiser(), make_denoiser(label_dim=0)
    report = transfer(Snapshot({"a": source}), target)
    assert torch.equal(target.state_dict()["model.map_layer0.weight"], source.state_dict()["model.map_layer0.weight"])
    assert "not used: model.map_label.weight, model.map_label.bias" in report and "left" not in report
    back = make_denoiser()
    before = back.state_dict()["model.map_label.weight"].clone()
    report = transfer(Snapshot({"a": target}), back)
    assert (
        torch.equal(back.state_dict()["model.map_label.weight"], before)
        and "left as initialised: model.map_label" in report
    )
    with pytest.raises(UserError, match="no weight of the snapshot fits"):
        transfer(Snapshot({"a": torch.nn.Linear(2, 3)}), target)


def test_weights_that_do_not_fit_are_named():
    denoiser = make_denoiser()
    options, state = denoiser.model.config["options"], denoiser.state_dict()
    state["model.map_layer0.bias"] = torch.zeros(5)
    with pytest.raises(UserError, match=r"model.map_layer0.bias have shape \[5\], but the options require \[32\]"):
        assemble(SongUNet, options, EDMPrecond, {}, denoiser.spec, state)
    state["model.extra"] = torch.zeros(1)
    state["model.map_layer0.bias"] = torch.zeros(32)
    with pytest.raises(UserError, match="has unexpected weights model.extra"):
        assemble(SongUNet, options, EDMPrecond, {}, denoiser.spec, state)
