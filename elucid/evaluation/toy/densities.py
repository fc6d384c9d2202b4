"""Point sets of the laboratory, all mixtures of Gaussians: a branching tree, moons, a spiral, a ring."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from elucid.evaluation.toy.mixture import Mixture

STD = 0.5
"""Deviation of each set per coordinate, EDM's sigma_data."""

LEVELS, PER_BRANCH = 6, 8
"""Of the tree: branches fork so often, and each is a row of so many Gaussians: 63 x 8 of a class."""


def along_curve(points: Tensor, width: float) -> tuple[Tensor, Tensor]:
    """Return means [N,2] and covariances [N,2,2] of Gaussians along a curve [N+1,2], `width` wide."""
    steps = points[1:] - points[:-1]
    lengths = steps.norm(dim=1, keepdim=True)
    along = steps / lengths
    across = torch.stack([-along[:, 1], along[:, 0]], dim=1)
    half = 0.5 * lengths[:, :, None]
    outer = half**2 * along[:, :, None] * along[:, None, :] + width**2 * across[:, :, None] * across[:, None, :]
    return (points[1:] + points[:-1]) / 2, outer


def tree(seed: int = 0) -> Mixture:
    """Two trees, a class each, whose branches fork and get thinner, after autoguidance's example (arXiv 2406.02507).

    Its own numbers are not published in the paper; these are ours.
    """
    generator = torch.Generator().manual_seed(seed)
    parts: list[tuple[float, Tensor, Tensor, int]] = []

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * torch.rand([], generator=generator).item()

    def grow(start: Tensor, angle: float, length: float, width: float, level: int, label: int) -> None:
        points, step = [start], length / PER_BRANCH
        bend = uniform(-0.5, 0.5) / PER_BRANCH
        for _ in range(PER_BRANCH):
            angle += bend
            points.append(points[-1] + step * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64))
        means, covariances = along_curve(torch.stack(points), width)
        parts.append((length, means, covariances, label))
        if level + 1 < LEVELS:
            for side in (-1, 1):
                turn = side * uniform(0.35, 0.75)
                grow(points[-1], angle + turn, length * uniform(0.7, 0.9), width * 0.8, level + 1, label)

    for label, angle in enumerate((0.25 * math.pi, 0.75 * math.pi)):
        grow(torch.zeros(2, dtype=torch.float64), angle, 1.0, 0.06, 0, label)
    weights = torch.tensor([length / PER_BRANCH for length, *_ in parts for _ in range(PER_BRANCH)])
    classes = torch.tensor([label for *_, label in parts for _ in range(PER_BRANCH)])
    return Mixture(
        weights, torch.cat([one for _, one, _, _ in parts]), torch.cat([one for _, _, one, _ in parts]), classes
    )


def curves(lines: list[Tensor], width: float) -> Mixture:
    """Return a mixture with a class for each curve, uniform along it."""
    made = [along_curve(line, width) for line in lines]
    weights = torch.cat([(line[1:] - line[:-1]).norm(dim=1) for line in lines])
    classes = torch.cat([torch.full((len(line) - 1,), label) for label, line in enumerate(lines)])
    return Mixture(weights, torch.cat([one for one, _ in made]), torch.cat([one for _, one in made]), classes)


def moons() -> Mixture:
    """Two half circles that reach into each other, a class each."""
    angles = torch.linspace(0, math.pi, 33, dtype=torch.float64)
    upper = torch.stack([angles.cos(), angles.sin()], dim=1)
    return curves([upper, torch.tensor([1.0, 0.5], dtype=torch.float64) - upper], 0.06)


def spiral() -> Mixture:
    """Two arms of a spiral, a class each."""
    turns = torch.linspace(0.25, 1, 97, dtype=torch.float64)
    arm = turns[:, None] * torch.stack([(4 * math.pi * turns).cos(), (4 * math.pi * turns).sin()], dim=1)
    return curves([arm, -arm], 0.02)


def ring() -> Mixture:
    """Eight Gaussians on a circle, a class each."""
    angles = torch.arange(8, dtype=torch.float64) * math.pi / 4
    means = torch.stack([angles.cos(), angles.sin()], dim=1)
    return Mixture(torch.ones(8), means, torch.eye(2).repeat(8, 1, 1) * 0.08**2, torch.arange(8))


DENSITIES: dict[str, Callable[[], Mixture]] = {"tree": tree, "moons": moons, "spiral": spiral, "ring": ring}


def density(name: str) -> Mixture:
    """Return a point set with mean 0 and deviation `STD`."""
    return DENSITIES[name]().scaled_to(STD)
