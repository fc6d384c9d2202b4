"""DDPM++, NCSN++ and ADM networks equal the reference, forward and by gradient norms."""

import pytest
import torch

from elucid.training.networks.dhariwal_unet import DhariwalUNet
from elucid.training.networks.kernels import winograd
from elucid.training.networks.kernels.choice import choose_kernels
from elucid.training.networks.song_unet import SongUNet
from tests import vectors

CLASSES = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet}
CASES = vectors.cases("networks/*")


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("fast", [False, True], ids=["torch", "winograd"])
def test_network(path, fast, monkeypatch):
    case, arrays = vectors.load(path)
    net = CLASSES[case["network"]](**vectors.network_options(case["kwargs"]))
    vectors.fill(net, case["salt"], case["parameters"])
    if fast:  # all convolutions that can be computed by it, also where torch's are faster
        monkeypatch.setattr(winograd, "CHANNELS", 1)
        monkeypatch.setattr(winograd, "PIXELS", {True: 1, False: 1})
        choose_kernels(net, torch.float32, channels_last=False, winograd=True)
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    keys = {"labels": "class_labels", "augment": "augment_labels"}
    cond = {key: tensors[name] for key, name in keys.items() if name in tensors}
    out = net.eval()(tensors["x"], tensors["noise_labels"], cond)
    assert vectors.relative_error(out, arrays["out"]) < 1e-5
    (out * tensors["cotangent"]).sum().backward()
    norms = {name: float(parameter.grad.norm()) for name, parameter in net.named_parameters()}
    assert norms == pytest.approx({k: v for k, v in case["grad_norms"].items() if k in norms}, rel=1e-4)
