"""What `benchmarks/precision.py` measures: distances in spreads of float32, TF32's rounding, gradients' errors."""

import pytest
import torch

from benchmarks.precision import TF32_EMULATED, curves_table, error, gradients, tf32
from elucid.training.config.build import make_denoiser
from elucid.training.types import Batch, NetSpec


@pytest.mark.parametrize(
    ("one", "every", "good"),
    [(1.0, 1.0, True), (1.02, 1.0, True), (1.32, 1.0, False), (1.0, 1.09, True), (1.0, 1.11, False)],
)
def test_a_precision_passes_within_the_spread_of_the_seeds(one, every, good, capsys):
    """Which is 10 % here: neither one point three times as far away, nor all on the average farther."""
    exact = [[1.0, 0.5, 0.5, 0.5], [1.1, 0.55, 0.55, 0.55], [0.9, 0.45, 0.45, 0.45]]
    other = [[value * every for value in curve] for curve in exact]
    other[1][0] *= one
    assert curves_table({"fp32": exact, "bf16": other}, tolerance=3.0) is good
    printed = capsys.readouterr().out
    assert "0.00%, 0.00 | reference" in printed and "spread of fp32 is 10.00%" in printed
    assert ("outside" in printed) is not good


def test_tf32_has_ten_bits():
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    relative = ((tf32(x) - x) / x).abs()
    assert torch.equal(tf32(tf32(x)), tf32(x))
    assert 2**-12 < relative.max() <= 2**-11
    assert torch.equal(tf32(torch.tensor([1 + 2**-10, 1 + 2**-12])), torch.tensor([1 + 2**-10, 1.0]))


def test_errors_of_gradients_are_those_of_the_precisions():
    """Float64's gradient is written out apart, so float32 agrees with it as far as it goes."""
    torch.manual_seed(0)
    network = {"name": "ddpmpp", "model_channels": 16, "channel_mult": [1, 2], "num_blocks": 1, "dropout": 0.0}
    denoiser = make_denoiser(network, {"name": "edm"}, NetSpec((8, 8), 3, vector={"labels": 4}))
    for parameter in denoiser.parameters():  # away from the zeros of the initialisation
        torch.nn.init.normal_(parameter, std=0.1)
    batch = Batch(torch.randn(4, 3, 8, 8), {"labels": torch.eye(4)})
    found = gradients(denoiser, batch, ["fp32", TF32_EMULATED, "bf16"])
    errors = [error(found[name], found["fp64"], list(found["fp64"])) for name in ("fp32", TF32_EMULATED, "bf16")]
    assert errors[0] < 1e-5 < 5e-5 < errors[1] < 1e-3 < errors[2] < 0.1
