"""What is said of a precision that the device lacks."""

import pytest
import torch

from elucid.torch_utils.precision import what_is_lacking

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch):
    """Sets the compute capability of a GPU."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Quadro T1000")
    return lambda *capability: monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)


@pytest.mark.parametrize("precision, words", [("fp16", "fp16 needs CUDA"), ("tf32", "compute capability 8.0")])
def test_on_a_cpu(precision, words):
    assert words in what_is_lacking(precision, CPU) and "training in float32 instead" in what_is_lacking(precision, CPU)
    assert what_is_lacking("fp32", CPU) is what_is_lacking("bf16", CPU) is None


def test_on_a_gpu_before_ampere(gpu):
    gpu(7, 5)
    assert "compute capability 8.0" in what_is_lacking("tf32", GPU)
    assert "Quadro T1000 has no bf16" in what_is_lacking("bf16", GPU)
    assert what_is_lacking("fp32", GPU) is what_is_lacking("fp16", GPU) is None


def test_on_a_newer_gpu_nothing_is_lacking(gpu):
    gpu(8, 0)
    assert {what_is_lacking(one, GPU) for one in ("fp32", "tf32", "bf16", "fp16")} == {None}
