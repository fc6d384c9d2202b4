"""Plug-ins: names that installed packages add; refusals, in one line, of what cannot be imported or does not fit."""

import sys

import pytest
import torch

from elucid.dnnlib import config, plugins
from elucid.dnnlib.errors import UserError
from elucid.metrics.detectors import make_detector
from elucid.training.config.build import build
from elucid.training.registry.interfaces import INTERFACES
from elucid.training.registry.names import LOSSES, SAMPLERS
from elucid.training.types import NetSpec

SPEC = NetSpec(resolution=(8, 8), image_channels=1)

PACKAGE = {
    "things/__init__.py": "from things.deep import Shift\n",
    "things/deep.py": (
        "from elucid.training.losses.dsm import DSM\nfrom elucid.training.noise.distributions import LogNormal\n"
        "class Shift(DSM):\n    def __init__(self, by: float = 1.0):\n        super().__init__(LogNormal(by))\n"
    ),
    "things-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: things\nVersion: 1.0\n",
    "things-1.0.dist-info/entry_points.txt": (
        "[elucid.losses]\nshift = things:Shift\nedm = things:Shift\ngone = things.nowhere:Gone\ntwin = things:Shift\n"
        "[elucid.samplers]\nloop = things:Shift\n"
    ),
    "rivals-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: rivals\nVersion: 1.0\n",
    "rivals-1.0.dist-info/entry_points.txt": "[elucid.losses]\ntwin = rivals:Other\n",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Two installed packages that add names; gone again afterwards."""
    for name, text in PACKAGE.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    plugins.installed.cache_clear()
    yield
    plugins.installed.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "things"]:
        del sys.modules[name]


def test_an_installed_package_adds_a_name(package):
    loss = options(loss={"name": "shift", "by": 0.5})
    parts = build(loss, SPEC, weights=False)
    assert type(parts.loss).__name__ == "Shift" and parts.loss.noise.P_mean == 0.5
    assert parts.options["loss"] == {"name": "shift", "by": 0.5}


def test_names_that_packages_add(package):
    assert config.lookup(LOSSES, "edm", "loss").__module__ == "elucid.training.losses.dsm", (
        "the project's own name stays"
    )
    assert "things" not in sys.modules, "nothing is imported before it is asked for"
    with pytest.raises(UserError, match="unknown loss 'shfit' .did you mean 'shift'.*known: adv.*dsm, .*gone.*shift"):
        config.lookup(LOSSES, "shfit", "loss")
    with pytest.raises(UserError, match="loss 'gone', added by an installed package: things.nowhere: cannot import"):
        config.lookup(LOSSES, "gone", "loss")
    with pytest.raises(UserError, match="'twin' means rivals:Other or things:Shift"):
        config.lookup(LOSSES, "twin", "loss")
    with pytest.raises(
        UserError, match="sampler loop: Shift is not a subclass of elucid.training.samplers.base.Sampler"
    ):
        config.lookup(SAMPLERS, "loop", "sampler", INTERFACES["sampler"])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import no_such_thing_at_all\n", "ModuleNotFoundError: No module named 'no_such_thing_at_all'.*bad.py:1"),
        ("from training.losses.base import Loss\n", r"bad.py:1.; since version 0.2 training is elucid.training"),
        ("x = 1\nx = 1 / 0\n", "ZeroDivisionError: division by zero.*bad.py:2"),
        ("def f(:\n", "SyntaxError.*bad.py, line 1"),
        ("raise ValueError()\n", "ValueError: no reason given"),
        ("", "has no 'Mine'"),
        ("class Mime: pass\n", "did you mean 'Mime'"),
    ],
)
def test_code_that_cannot_be_imported(code, message, tmp_path):
    path = tmp_path / "bad.py"
    path.write_text(code)
    for _ in range(2):  # also the second time: nothing half-imported stays
        with pytest.raises(UserError, match=message) as refusal:
            config.resolve(f"{path}:Mine")
        assert "\n" not in str(refusal.value)


NETWORK = "img_resolution, in_channels, out_channels, label_dim, augment_dim"
CODE = f"""
import subprocess
from torch import nn
from elucid.training.losses.base import Loss
from elucid.training.preconds.base import Denoiser
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.samplers.base import Sampler
from elucid.metrics.detectors import Detector

value = 3
class Plain: pass
class NoForward(Loss): pass
class TwoArguments(Loss):
    def forward(self, denoiser, batch): pass
class BareNet(nn.Module):
    def forward(self, x, c_noise, cond): pass
class NetOfTwo(nn.Module):
    def __init__(self, {NETWORK}): super().__init__()
    def forward(self, x, c_noise): pass
class FlatNet(nn.Module):
    def __init__(self, {NETWORK}):
        super().__init__()
        self.layer = nn.Linear(1, 1)
    def forward(self, x, c_noise, cond): return x.mean((2, 3))
Renamed = type("Other", (FlatNet,), {{"__module__": FlatNet.__module__}})
class NoCoefficients(Denoiser): pass
class Unscaled(EDMPrecond):
    def __init__(self, model, spec): pass
class Silent(Sampler): pass
class Abstract(Detector):
    def __init__(self, device, weights): pass
class Nameless(Abstract):
    dim, sha256, resize = 3, "0", "none"
    def features(self, images): pass
class Bare:
    def __init__(self, device, weights): pass
"""


def options(**changes) -> dict:
    network = {"name": "ddpmpp", "model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1}
    parts = {"network": network, "precond": {"name": "edm"}, "loss": {"name": "edm"}}
    return {"encoder": {"name": "rgb"}, "augment": None, **parts, **changes}


@pytest.mark.parametrize(
    ("part", "name", "message"),
    [
        ("loss", "value", "loss .*:value is a int, not a class"),
        ("loss", "Plain", "loss .*:Plain: Plain is not a subclass of elucid.training.losses.base.Loss"),
        ("loss", "NoForward", r"NoForward must define forward\(denoiser, batch, step\)"),
        ("loss", "TwoArguments", r"must define forward\(.*step\); its own is forward\(self, denoiser, batch\)"),
        ("network", "Plain", "network .*:Plain: Plain is not a subclass of torch.nn.modules.module.Module"),
        ("network", "BareNet", "its constructor must take img_resolution, .*; BareNet lacks 'img_resolution'"),
        ("network", "NetOfTwo", r"must define forward\(x, c_noise, cond\); its own is"),
        ("network", "Renamed", "snapshots cannot find Other in elucid_plugin_bad"),
        ("precond", "Plain", "Plain is not a subclass of elucid.training.preconds.base.Preconditioned"),
        ("precond", "NoCoefficients", r"NoCoefficients must define coefficients\(sigma\)"),
        ("precond", "Unscaled", "its constructor must take model, spec, precision; Unscaled lacks 'precision'"),
        ("encoder", "Plain", "encoder .*:Plain: Plain is not a subclass of elucid.training.encoders.base.Encoder"),
        ("augment", "Plain", "transform .*: Plain is not a subclass of elucid.training.transforms.base.Transform"),
        ("encoder", "subprocess", "is a module, not a class"),
    ],
)
def test_what_lacks_an_interface_is_refused_by_name(part, name, message, tmp_path):
    (tmp_path / "bad.py").write_text(CODE)
    with pytest.raises(UserError, match=message) as refusal:
        build(options(**{part: {"name": f"{tmp_path}/bad.py:{name}"}}), SPEC, weights=False)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Abstract", "Abstract must define features"),
        ("Bare", r"Bare must define __call__\(images\)"),
        ("Nameless", "Nameless must have name, a str"),
    ],
)
def test_detectors_too(name, message, tmp_path):
    (tmp_path / "bad.py").write_text(CODE)
    with pytest.raises(UserError, match=message):
        make_detector(f"{tmp_path}/bad.py:{name}", torch.device("cpu"))


def test_samplers_too(tmp_path):
    (tmp_path / "bad.py").write_text(CODE)
    for name, what in (
        ("Silent", "must define __call__"),
        ("Plain", "is not a subclass of elucid.training.samplers.base.Sampler"),
    ):
        with pytest.raises(UserError, match=rf"sampler .*:{name}: {name} {what}"):
            config.lookup(SAMPLERS, f"{tmp_path}/bad.py:{name}", "sampler", INTERFACES["sampler"])


ASKING = """
from elucid.training.losses.base import Loss
class Asks(Loss):
    def __init__(self, how: str): super().__init__(); self.how = how
    def adapt(self, spec): return {"nothing": None, "colours": spec.replace(image_channels=3),
                                   "a variance": spec.replace(out_channels=2 * spec.image_channels)}[self.how]
    def forward(self, denoiser, batch, step): pass
"""


def test_what_a_loss_may_ask_of_the_network(tmp_path):
    (tmp_path / "asks.py").write_text(ASKING)

    def built(how):
        return build(options(loss={"name": f"{tmp_path}/asks.py:Asks", "how": how}), SPEC, weights=False)

    assert built("a variance").denoiser.spec.out_channels == 2 * SPEC.image_channels
    with pytest.raises(UserError, match="loss Asks: adapt returned NoneType; return spec"):
        built("nothing")
    with pytest.raises(UserError, match="loss Asks: adapt must not change image_channels"):
        built("colours")


def test_a_name_that_data_gives_is_not_called():
    """A state or a snapshot names components too; whatever it names, nothing but a component is called."""
    for part in ("encoder", "augment", "loss", "network", "precond"):
        with pytest.raises(UserError, match="Popen"):
            build(options(**{part: {"name": "subprocess:Popen", "args": "true"}}), SPEC, weights=False)


def test_a_network_that_returns_another_shape_is_named(tmp_path):
    (tmp_path / "bad.py").write_text(CODE)
    denoiser = build(options(network={"name": f"{tmp_path}/bad.py:FlatNet"}), SPEC).denoiser
    with pytest.raises(UserError, match=r"network FlatNet returned \[2, 1\] .* \[2, 1, 8, 8\]"):
        denoiser(torch.zeros(2, 1, 8, 8), 1.0)
