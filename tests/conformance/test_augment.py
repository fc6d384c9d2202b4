"""Every augmentation of the vectors: the draws of a seed, their labels, and images from either."""

import pytest
import torch

from elucid.training.transforms.augment_pipe import AugmentPipe
from tests import vectors

CASES = [
    (path, index, name)
    for path in vectors.cases("augment/*")
    for index, name in enumerate(vectors.load(path)[0]["order"])
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].stem}:{case[2]}")
def case(request):
    path, index, name = request.param
    description, arrays = vectors.load(path)
    pipe = AugmentPipe(description["p"], **description["options"][name])
    images, labels, out = (torch.from_numpy(arrays[key]) for key in ("images", f"{name}:labels", f"{name}:out"))
    return pipe, 100 + index, images, labels, out


def test_seeded_draw(case):
    pipe, seed, images, labels, out = case
    torch.manual_seed(seed)
    parameters = pipe.draw(len(images), images.shape[2:])
    torch.testing.assert_close(pipe.labels(parameters), labels, rtol=0, atol=1e-6)
    torch.testing.assert_close(pipe.apply(images, parameters), out, rtol=0, atol=1e-5)


@pytest.mark.parametrize("device", ["cpu", *["cuda"] * torch.cuda.is_available()])
def test_labels_fix_the_transformation(case, device):
    pipe, _, *tensors = case
    images, labels, out = (tensor.to(device) for tensor in tensors)
    parameters = pipe.parameters_from_labels(labels)
    error = (pipe.apply(images, parameters) - out).abs().amax(dim=(1, 2, 3))
    if "aniso" in parameters:  # its label leaves two stretches open: each image must be one of them
        other = {**parameters, "aniso": torch.stack([-parameters["aniso"][0], parameters["aniso"][1] + torch.pi])}
        torch.testing.assert_close(pipe.labels(other), labels, rtol=0, atol=1e-5)
        error = error.minimum((pipe.apply(images, other) - out).abs().amax(dim=(1, 2, 3)))
    assert error.max() <= 1e-5
