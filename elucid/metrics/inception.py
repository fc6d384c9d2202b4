"""The FID detector: Inception-v3 with its public weights, downloaded to the cache or from a file.

Heusel et al. 2017 (arXiv 1706.08500).
"""

import os
import pickle
import re
import sys
from pathlib import Path

import torch
from torch import Tensor

from elucid.dnnlib import files
from elucid.dnnlib.errors import UserError
from elucid.metrics.detectors import Detector, as_rgb, full_precision
from elucid.metrics.inception_network import LAYERS, InceptionV3
from elucid.torch_utils import distributed

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
        path = public_weights() if weights is None else files.fetch(weights, "detector weights")
        self.device = device
        self.dim = LAYERS["2048"]
        self.sha256 = files.sha256(path)
        if not self.sha256.startswith(WEIGHTS_PREFIX):
            note = f"note: {path} is not the public FID Inception; its distances are only comparable with each other"
            distributed.print0(note, file=sys.stderr)
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
            return self.network(as_rgb(images).to(self.device), names)


def public_weights() -> Path:
    """Return the public weights from the cache, downloaded by the main process if necessary.

    Raises UserError on all processes if the download fails or has the wrong hash.
    """
    message = None
    if distributed.is_main():
        try:
            _fetch_public()
        except UserError as error:
            message = str(error)
    message = distributed.broadcast_object(message)
    if message is not None:
        raise UserError(message)
    return _fetch_public()  # now in the cache, unless this process runs on another machine


def _fetch_public() -> Path:
    try:
        path = files.fetch(WEIGHTS_URL, "Inception weights")
    except UserError as error:
        raise UserError(f"{error} with `detector_weights`=FILE, or use `detector`=random") from error
    digest = files.sha256(path)
    if not digest.startswith(WEIGHTS_PREFIX):
        path.unlink(missing_ok=True)
        raise UserError(
            f"{WEIGHTS_URL}: the download has SHA-256 {digest[:8]}..., not {WEIGHTS_PREFIX}..., and was removed; "
            "try again, or download it by hand and give `detector_weights`=FILE"
        )
    return path


def load_network(path: Path) -> InceptionV3:
    """Load Inception-v3 from a state dict; UserError if the file is invalid or has other names or shapes."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's message suggests running the code inside
        raise UserError(f"{path}: cannot be read as plain weights; give {WEIGHTS_FILE}") from error
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: cannot be read as weights ({reason}); give {WEIGHTS_FILE}") from error
    if not isinstance(state, dict):
        raise UserError(f"{path}: contains no state dict; give {WEIGHTS_FILE}")
    network = InceptionV3()
    # num_batches_tracked only matters in training, and files from before torch 0.4.1 lack it.
    counts = {name: value for name, value in network.state_dict().items() if name.endswith("num_batches_tracked")}
    try:
        network.load_state_dict({**counts, **state}, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).splitlines()[1:2]).strip()
        raise UserError(f"{path}: not the FID Inception-v3 ({reason[:120]}); give {WEIGHTS_FILE}") from error
    return network.for_inference()
