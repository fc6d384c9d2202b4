"""AuthPct, the percentage of authentic samples (Alaa et al. 2022, arXiv 2102.08921, section 5)."""

import numpy as np


def authpct(distances: np.ndarray, radii: np.ndarray) -> float:
    """Return the percentage of samples with `distances` > `radii`, both f64[N].

    `distances` are those of samples to the nearest training image, `radii` those of that image to the nearest other
    training image. A sample within the radius is unauthentic, as it is nearer to a training image than any other
    training image is.
    """
    return 100 * float(np.mean(distances > radii))
