"""The fused normalisation: its kernels in Triton's interpreter against torch, and where torch's operations are used.

The first tests need the package triton, which only the CUDA build of torch brings along (`pip install triton`).
"""

import json
from importlib.util import find_spec

import pytest
import torch

from elucid.training.networks.attention import forward_derivatives
from elucid.training.networks.kernels import fused_norm
from elucid.training.networks.layers import GroupNorm
from tests import scripts


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What `fused_norm_worker.py` writes."""
    if find_spec("triton") is None:
        pytest.skip("needs triton: pip install triton")
    path = tmp_path_factory.mktemp("fused") / "found.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        scripts.run("tests/device/fused_norm_worker.py", path)
    return json.loads(path.read_text())


def test_values_and_gradients_are_those_of_torch(found):
    """For both memory formats, groups of any size, with and without what is added or scales and shifts."""
    assert len(found["float32"]) == 24 and all(found["formats"])
    assert {name: errors for name, errors in found["float32"].items() if max(errors) > 5e-5} == {}


def test_half_precision_is_rounded_once(found):
    """Sums are float32: results are within a rounding of those of torch in float32."""
    assert len(found["half"]) == 6
    assert {name: pair for name, pair in found["half"].items() if pair[0] > 2 * pair[1]} == {}


def test_second_derivatives(found):
    assert {name: errors for name, errors in found["second"].items() if max(errors) > 1e-4} == {}


@pytest.mark.parametrize("name", ["ddpmpp", "adm", "adm_unet"])
def test_networks_use_it_for_the_same_result(found, name):
    seen = found["networks"][name]
    assert seen["error"] < 1e-4 and seen["unchanged on the CPU"]
    assert seen["calls"] == 10, "two for each of five blocks"


class OnCUDA:
    """As far as `runs_fused` looks at a tensor."""

    is_cuda, ndim, dtype = True, 4, torch.bfloat16


def test_where_the_kernel_is_used(monkeypatch):
    """Not without triton, for other types, for derivatives that it has not, and in compiled code."""
    monkeypatch.setattr(fused_norm, "has_triton", lambda: True)
    assert fused_norm.runs_fused(OnCUDA()) and not fused_norm.runs_fused(torch.zeros(1, 4, 2, 2))
    double = OnCUDA()
    double.dtype = torch.float64
    assert not fused_norm.runs_fused(double)
    with forward_derivatives():
        assert not fused_norm.runs_fused(OnCUDA())
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not fused_norm.runs_fused(OnCUDA())
    monkeypatch.undo()
    monkeypatch.setattr(fused_norm, "has_triton", lambda: False)
    assert not fused_norm.runs_fused(OnCUDA())


def test_norms_are_not_fused_unless_asked():
    assert not GroupNorm(8).fused
