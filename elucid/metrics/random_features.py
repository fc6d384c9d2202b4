"""An untrained detector: a small VGG-style network with fixed random weights.

Random features are suitable for images that are not natural, and for tests (Naeem et al. 2020, arXiv 2002.09797,
section on random embeddings; like its R64 it has 64 outputs). Its distances are only comparable with each other.
"""

import hashlib
import os

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from elucid.dnnlib.errors import UserError
from elucid.metrics.detectors import Detector

SEED = 0
SIZE = 32  # images are resized to this height and width
WIDTHS = (16, 32, 64)  # channels of each stage: two 3x3 convolutions with ReLU, then a 2x2 max pool
DIM = 64
OUTPUT_SCALE = 4.0  # only sets the unit: distances between different sets of images are in the tens
MIN_SIZE = 8


class RandomDetector(Detector):
    """Features f32[B,64] from six random convolutions and a random projection; thousands of images/s on a CPU."""

    name = "random"
    resize = f"bilinear-antialias-{SIZE}"
    dim = DIM

    def __init__(self, device: torch.device, weights: str | os.PathLike | None = None):
        if weights is not None:
            raise UserError("`detector_weights` does not apply to `detector`=random, whose weights come from a seed")
        self.device = device
        arrays = random_weights()
        self.sha256 = hashlib.sha256(b"".join(array.astype("<f4").tobytes() for array in arrays)).hexdigest()
        tensors = [torch.from_numpy(array).to(device) for array in arrays]
        self.convolutions = [tensor.contiguous(memory_format=torch.channels_last) for tensor in tensors[:-1]]
        self.projection = tensors[-1]

    def features(self, images: Tensor) -> Tensor:
        if min(images.shape[-2:]) < MIN_SIZE:
            raise UserError(
                f"`detector`=random needs images of at least {MIN_SIZE}x{MIN_SIZE}, "
                f"not {images.shape[-2]}x{images.shape[-1]}; use another detector"
            )
        x = images.to(torch.float32)
        if x.shape[-2:] != (SIZE, SIZE):
            x = F.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)
        x = (x / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        for index, weight in enumerate(self.convolutions):
            x = F.conv2d(x, weight, padding=1)
            x = (F.max_pool2d(x, 2) if index % 2 == 1 else x).relu_()  # after the pool: the same, of fewer numbers
        # No matrix product: for so few and long sums some processors share out each sum among the threads.
        return (x.flatten(1)[:, None] * self.projection).sum(-1)


def random_weights() -> list[np.ndarray]:
    """Return convolutions f32[out,in,3,3] and the projection f32[64,in], uniform with the variance of He et al. 2015.

    Uniform numbers of numpy's frozen RandomState use integer arithmetic only, so they are identical on all machines.
    """
    random = np.random.RandomState(SEED)

    def uniform(shape: tuple[int, ...], gain: float) -> np.ndarray:
        bound = gain * np.sqrt(3 / np.prod(shape[1:]))
        return (bound * (2 * random.random_sample(shape) - 1)).astype(np.float32)

    arrays, c_in = [], 3
    for width in WIDTHS:
        for _ in range(2):
            arrays.append(uniform((width, c_in, 3, 3), gain=np.sqrt(2)))
            c_in = width
    side = SIZE >> len(WIDTHS)
    arrays.append(uniform((DIM, c_in * side * side), gain=OUTPUT_SCALE))
    return arrays
