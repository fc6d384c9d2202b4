"""Features of images in a file."""

from collections.abc import Sequence
from typing import IO

import numpy as np
from torch import Tensor

from elucid.metrics.detectors import Detector


def save_features(file: IO[bytes], features: Tensor, names: Sequence[str], detector: Detector) -> None:
    """Write npz: `features` f32[N,D], `names` of the images, `detector`, `detector_sha256` and `resize`."""
    about = {"detector": detector.name, "detector_sha256": detector.sha256, "resize": detector.resize}
    texts = {key: np.array(value) for key, value in about.items()}
    np.savez(file, features=features.numpy(), names=np.array(list(names)), **texts)
