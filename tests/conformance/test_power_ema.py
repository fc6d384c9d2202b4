"""Power-function averages and their reconstruction equal the reference; so do half-lives."""

import numpy as np
import pytest
import torch
from torch import nn

from elucid.training.ema.halflife import HalflifeEMA
from elucid.training.ema.power import PowerEMA
from elucid.training.ema.profiles import coefficients, exponent_to_std, inner, power, std_to_exponent
from tests import vectors
from tests.oracles import step_at

EMAS = vectors.cases("edm2/ema*")


class Weights(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.from_numpy(value.copy()))


def sources(nimg, std):
    return [power(*pair) for pair in zip(std.tolist(), nimg.tolist(), strict=True)]


@pytest.mark.parametrize("path", EMAS, ids=lambda path: path.stem)
def test_profiles(path):
    _, there = vectors.load(path)
    assert [std_to_exponent(std) for std in there["std"]] == pytest.approx(there["std_to_exp"], rel=1e-12)
    assert [exponent_to_std(one) for one in there["exp"]] == pytest.approx(there["exp_to_std"], rel=1e-12)
    ema = PowerEMA(Weights(np.zeros(1, np.float32)), there["std"].tolist())
    for name, betas in zip(ema.averages, there["beta"], strict=True):
        steps = [step_at(int(end) - 2048, 2**40, 2048) for end in there["t_next"]]
        assert [ema.beta(name, step) for step in steps] == pytest.approx(betas, rel=1e-12)
    names = ("corr_a_std", "corr_a_ofs", "corr_b_std", "corr_b_ofs")
    pairs = zip(*(there[name].tolist() for name in names), strict=True)
    found = [inner(power(a_std, a_end), power(b_std, b_end)) for a_std, a_end, b_std, b_end in pairs]
    assert found == pytest.approx(there["correlation"], rel=1e-12)
    for column, (end, std) in zip(there["response"].T, [(20, 0.05), (32, 0.05), (32, 0.2)], strict=True):
        values = np.array([power(std, end)(tau) for tau in range(len(column))])
        assert values / values.sum() == pytest.approx(column, rel=1e-12)


@pytest.mark.parametrize("path", EMAS, ids=lambda path: path.stem)
def test_tracking(path):
    case, there = vectors.load(path)
    batch, traditional = case["track"]["batch_size"], case["traditional"]
    module = Weights(there["weights"][0])
    ema = PowerEMA(module, case["track"]["stds"])
    half = HalflifeEMA(module, [traditional["halflife_Mimg"]], traditional["rampup_ratio"])
    for index, weights in enumerate(there["weights"][1:]):
        module.value.data.copy_(torch.from_numpy(weights))
        ema.update(module, step_at(index * batch, 10**6, batch))
        # In its ramp-up EDM2 counts the images of the step as well, EDM and we those before it.
        half.update(module, step_at((index + 1) * batch, 10**6, batch))
        found = torch.stack([average.value for average in ema.averages.values()])
        assert vectors.relative_error(found, there["ema"][index]) < 1e-6
        [average] = half.averages.values()
        assert vectors.relative_error(average.value, there["traditional_ema"][index]) < 1e-6


@pytest.mark.parametrize("path", EMAS, ids=lambda path: path.stem)
def test_reconstruction(path):
    case, there = vectors.load(path)
    wanted, nimg = there["out_std"].tolist(), there["in_nimg"]
    found = coefficients(sources(nimg, there["in_std"]), [power(std, int(nimg[-1])) for std in wanted])
    assert np.linalg.norm(found - there["coefficients"]) < 1e-12 * np.linalg.norm(there["coefficients"])
    early = coefficients(sources(nimg[:8], there["in_std"][:8]), [power(std, 512) for std in wanted])
    assert vectors.relative_error(early, there["coefficients_at_512"]) < 1e-12
    big = sources(there["big_in_nimg"], there["big_in_std"])
    ends = [power(std, int(there["big_in_nimg"][-1])) for std in wanted]
    assert vectors.relative_error(coefficients(big, ends), there["big_coefficients"]) < 1e-11
    every = there["in_nimg"] // case["track"]["batch_size"] - 1
    place = [case["track"]["stds"].index(std) for std in there["in_std"].tolist()]
    inputs = there["ema"][every, place].astype(np.float64)
    rebuilt = np.einsum("io,i...->o...", found, inputs)
    assert vectors.relative_error(rebuilt, there["reconstructed"]) < 1e-6
    for std, one, direct in zip(wanted, rebuilt, there["tracked_directly"], strict=True):
        error = vectors.relative_error(one, direct)
        assert error < (1e-6 if std in (0.05, 0.1) else 0.01 if std >= 0.05 else 0.02), std
