"""Preconditioned denoisers equal the reference: D(x; sigma), the range of sigma and its rounding."""

import pytest
import torch

from tests import vectors

CASES = vectors.cases("preconds/*")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_precond(path):
    case, arrays = vectors.load(path)
    denoiser = vectors.denoiser(case).eval()
    x, sigma = torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["sigma"])
    cond = {"labels": torch.from_numpy(arrays["class_labels"]), "augment": torch.from_numpy(arrays["augment_labels"])}
    assert vectors.relative_error(denoiser(x, sigma, cond).x0, arrays["D"]) < 1e-5
    assert vectors.relative_error(denoiser(x, sigma).x0, arrays["D_without_labels"]) < 1e-5
    assert denoiser.sigma_min == pytest.approx(case["sigma_min"], rel=1e-6)
    assert denoiser.sigma_max == pytest.approx(case["sigma_max"], rel=1e-6)
    rounded = denoiser.round_sigma(torch.from_numpy(arrays["round_in"]))
    assert vectors.relative_error(rounded, arrays["round_out"]) < 1e-6
