"""Fused normalisations and residual sums: their kernels against torch, in Triton's interpreter, and where they run.

The first tests need the package triton, which only the CUDA build of torch brings along (`make kernels`).
"""

import json
from importlib.util import find_spec

import pytest
import torch

from elucid.training.networks.attention import forward_derivatives
from elucid.training.networks.kernels import rows
from elucid.training.networks.layers import GroupNorm
from tests import scripts


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What `fused_norm_worker.py` writes."""
    if find_spec("triton") is None:
        pytest.skip("needs triton: make kernels")
    path = tmp_path_factory.mktemp("fused") / "found.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        scripts.run("tests/device/fused_norm_worker.py", path)
    return json.loads(path.read_text())


def test_values_and_gradients_are_those_of_torch(found):
    """For groups of any size, tiles that fill an image or not, and with or without all that is fused."""
    assert len(found["float32"]) == 48 and all(found["formats"])
    assert {name: errors for name, errors in found["float32"].items() if max(errors) > 5e-5} == {}
    assert len(found["residual"]) == 19
    assert {name: errors for name, errors in found["residual"].items() if max(errors) > 1e-5} == {}


def test_half_precision_is_rounded_once(found):
    """Sums are float32: results are within a rounding of those of torch in float32."""
    assert len(found["half"]) == 12
    assert {name: pair for name, pair in found["half"].items() if pair[0] > 2 * pair[1]} == {}


def test_second_derivatives(found):
    assert {name: errors for name, errors in found["second"].items() if max(errors) > 1e-4} == {}


@pytest.mark.parametrize("name", ["ddpmpp", "adm", "adm_unet"])
def test_networks_use_them_for_the_same_result(found, name):
    seen = found["networks"][name]
    assert seen["error"] < 1e-5 and seen["error of gradients"] < 1e-4 and seen["unchanged on the CPU"]
    assert seen["calls"] > 30


@pytest.mark.parametrize("name", ["ddpmpp", "adm", "adm_unet"])
def test_working_weights_change_nothing(found, name):
    """The first pass, which reads the weights themselves, has the bits of those that read copies."""
    assert found["working"][name] == {"equal": True, "norms are copied": True}


class OnCUDA:
    """As far as `runs_fused` looks at a tensor."""

    is_cuda, ndim, dtype = True, 4, torch.bfloat16

    def __init__(self, channels_last: bool = True):
        self.is_contiguous = lambda memory_format: channels_last


def test_where_the_kernel_is_used(monkeypatch):
    """Not without triton, for other types and orders in memory, for derivatives it lacks, and in compiled code."""
    monkeypatch.setattr(rows, "has_triton", lambda: True)
    assert rows.runs_fused(OnCUDA()) and not rows.runs_fused(torch.zeros(1, 4, 2, 2))
    assert not rows.runs_fused(OnCUDA(channels_last=False))
    double = OnCUDA()
    double.dtype = torch.float64
    assert not rows.runs_fused(double)
    with forward_derivatives():
        assert not rows.runs_fused(OnCUDA())
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not rows.runs_fused(OnCUDA())
    monkeypatch.undo()
    monkeypatch.setattr(rows, "has_triton", lambda: False)
    assert not rows.runs_fused(OnCUDA())


def test_norms_are_not_fused_unless_asked():
    assert not GroupNorm(8).fused
