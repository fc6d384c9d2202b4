"""Tests of what is promised on CUDA; all are skipped without it. On a GPU they take about a minute:

python -m pytest -q -n 8 tests/cuda
"""

import pytest
import torch

from elucid.torch_utils.determinism import prepare_cublas
from tests.cuda.runs import DEVICE

if DEVICE.type == "cuda" and torch.cuda.is_available():
    prepare_cublas()  # before another test starts CUDA, as it is read once


@pytest.fixture(scope="session", autouse=True)
def cuda():
    if DEVICE.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device; ELUCID_CUDA_TESTS_ON=cpu tries the tests themselves")
