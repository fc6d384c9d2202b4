"""The FID detector: Inception-v3 with its public weights, downloaded to the cache or from a file.

Heusel et al. 2017 (arXiv 1706.08500).
"""

import os
import re
from pathlib import Path

import torch
from torch import Tensor

from elucid.dnnlib import files
from elucid.metrics.detectors import Detector, as_rgb, full_precision
from elucid.metrics.inception_network import LAYERS, InceptionV3
from elucid.pretrained.weights import downloaded, fill, identify, read_state

WEIGHTS_FILE = "pt_inception-2015-12-05-6726825d.pth"
WEIGHTS_URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{WEIGHTS_FILE}"
WEIGHTS_PREFIX = re.search(r"-([0-9a-f]{8})\.pth$", WEIGHTS_FILE)[1]
"""The end of the name is the start of the file's SHA-256."""

OUTPUTS = {"features": "2048", "spatial": "spatial", "logits": "logits_unbiased"}
"""The layer of each output that metrics use."""


class InceptionDetector(Detector):
    """Pool features of Inception-v3, f32[B,2048], on which the FID is defined."""

    name = "inception"
    resize = "bilinear-tf1-299"
    extra = {"spatial": LAYERS["spatial"], "logits": LAYERS["logits_unbiased"]}

    def __init__(self, device: torch.device, weights: str | os.PathLike | None = None):
        path = public_weights() if weights is None else files.fetch(weights, "weights")
        self.device = device
        self.dim = LAYERS["2048"]
        self.sha256 = identify(path, WEIGHTS_PREFIX, "the public FID Inception")
        self.network = load_network(path).to(device)

    def features(self, images: Tensor) -> Tensor:
        return self.layers(images, ("2048",))["2048"]

    def outputs(self, images: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        values = self.layers(images, tuple(OUTPUTS[name] for name in names))
        return {name: values[OUTPUTS[name]].flatten(1) for name in names}

    @torch.inference_mode()
    def layers(self, images: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """Return several of `inception_network.LAYERS` from one forward pass over images u8[B,1 or 3,H,W]."""
        with full_precision():
            return self.network(as_rgb(self.placed(images)), names)


def public_weights() -> Path:
    """Return the public weights from the cache, downloaded by the main process if necessary.

    Raises UserError on all processes if the download fails or has the wrong hash.
    """
    return downloaded(WEIGHTS_URL, WEIGHTS_PREFIX, "Inception weights", "use `detector`=random")


def load_network(path: Path) -> InceptionV3:
    """Load Inception-v3 from a state dict; UserError if the file is invalid or has other names or shapes."""
    network = InceptionV3()
    fill(network, read_state(path, WEIGHTS_FILE), path, "the FID Inception-v3", WEIGHTS_FILE)
    return network.for_inference()
