"""Classifier-free guidance, and sampling a model that wants coordinates, equal the reference."""

import re

import pytest
import torch

from elucid.training.guidance.classifier_free import ClassifierFreeGuidance
from elucid.training.noise.schedules import Karras
from elucid.training.preconds.wrapper import BoundDenoiser
from elucid.training.samplers.edm import EDMSampler
from tests import vectors

CASES = [path for path in vectors.cases("losses/*") if "cfg" in vectors.load(path)[0]]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@torch.no_grad()
def test_classifier_free_guidance(path):
    case, arrays = vectors.load(path)
    denoiser = vectors.denoiser(case).eval()
    sigma = float(re.search(r"sigma ([\d.]+)", case["cfg"])[1])
    x = torch.from_numpy(arrays["cfg_x"])
    scales = [name for name in arrays if name.startswith("cfg_D_")]
    assert scales
    for name in scales:
        guided = ClassifierFreeGuidance(denoiser, float(name.removeprefix("cfg_D_")))
        out = guided(x, sigma, {"labels": torch.from_numpy(arrays["class_labels"][: len(x)])})
        assert vectors.relative_error(out.x0, arrays[name]) < 1e-5


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@torch.no_grad()
def test_full_size_sample(path):
    """Of a model that is told coordinates: the denoiser makes the grid, the sampler knows nothing of it."""
    case, arrays = vectors.load(path)
    latents = torch.from_numpy(arrays["sample_latents"])
    labels = torch.from_numpy(arrays["class_labels"][: len(latents)])
    denoise = BoundDenoiser(vectors.denoiser(case).eval(), {"labels": labels})
    sigmas = Karras(case.get("sample_steps", 5))(denoise)  # the description does not say, but only 5 can match
    x = EDMSampler()(denoise, latents * sigmas[0], sigmas, torch.randn_like)
    assert vectors.relative_error(x, arrays["sample"]) < 1e-5
