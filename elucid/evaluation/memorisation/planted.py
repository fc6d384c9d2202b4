"""Copies of training images that are planted among samples, as a control of what a measure can see."""

import numpy as np

PARTS = (0.01, 0.05, 0.20)
"""Parts of the samples that copies replace."""

NOISE = 4.0
"""Standard deviation of the added noise, in gray levels of 255."""


def _noisy(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    noise = random.standard_normal(image.shape) * NOISE
    return (image + noise).round().clip(0, 255).astype(np.uint8)


def _shifted(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Move the image by one pixel in one of four directions; the row or column left free repeats its neighbour."""
    axis, step = [(1, 1), (1, -1), (2, 1), (2, -1)][random.integers(4)]
    moved = np.roll(image, step, axis)
    edge, inner = (0, 1) if step > 0 else (-1, -2)
    if image.shape[axis] > 1:
        index: list = [slice(None)] * 3
        index[axis] = edge
        source = list(index)
        source[axis] = inner
        moved[tuple(index)] = moved[tuple(source)]
    return moved


def _mirrored(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return np.ascontiguousarray(image[:, :, ::-1])


ALTERATIONS = {
    "noise": _noisy,
    "shift": _shifted,
    "mirror": _mirrored,
}
"""How copies differ from the training image, u8[C,H,W], besides exact ones: noise, one pixel, left and right."""


def choose(samples: int, train: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return which samples the largest part replaces, in order, and by which training images: i64[n] each.

    Smaller parts are the first of these. Training images repeat only if there are fewer than copies.
    """
    random = np.random.default_rng([seed, 0])
    places = random.permutation(samples)[: number(samples, PARTS[-1])]
    rounds = -(-len(places) // train)
    copied = np.concatenate([random.permutation(train) for _ in range(rounds)])[: len(places)]
    return places, copied


def number(samples: int, part: float) -> int:
    """Return the number of samples that copies replace, at least one."""
    return max(1, round(part * samples))


def altered(image: np.ndarray, kind: str, seed: int, index: int) -> np.ndarray:
    """Return the training image u8[C,H,W] at `index`, altered; it depends on kind, seed and index only."""
    return ALTERATIONS[kind](image, np.random.default_rng([seed, 1, index]))
