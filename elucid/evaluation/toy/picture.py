"""Pictures of the plane: the density as shade, samples as points, paths of some samples as lines."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from elucid.evaluation.toy.mixture import Mixture

SIDE, TITLE, GAP = 420, 44, 8
REACH = 2.5
"""Half of the side of the plane that is shown, in deviations of the set."""

PAPER, DARK, POINT, PATH = (255, 255, 255), (176, 196, 214), (192, 57, 43), (40, 60, 80)


@dataclass(frozen=True)
class Panel:
    """What one part of a picture shows: samples [N,2], and paths [steps,N,2] of some."""

    title: str
    note: str
    samples: Tensor
    paths: Tensor | None = None


def picture(mixture: Mixture, panels: Sequence[Panel], reach: float) -> Image.Image:
    """Draw panels side by side; `reach` is half of the side that is shown."""
    width = len(panels) * (SIDE + GAP) - GAP
    image = Image.new("RGB", (width, SIDE + TITLE), PAPER)
    shade = shaded(mixture, reach)
    for index, panel in enumerate(panels):
        image.paste(drawn(shade.copy(), panel, reach), (index * (SIDE + GAP), TITLE))
        draw, left = ImageDraw.Draw(image), index * (SIDE + GAP) + 6
        draw.text((left, 4), panel.title, fill=(20, 20, 20), font=ImageFont.load_default(15))
        draw.text((left, 24), panel.note, fill=(90, 90, 90), font=ImageFont.load_default(12))
    return image


def shaded(mixture: Mixture, reach: float) -> Image.Image:
    """Return the density as shade: darker where there is more."""
    places = (torch.arange(SIDE, dtype=torch.float64) + 0.5) / SIDE * 2 * reach - reach
    grid = torch.stack(torch.meshgrid(places, -places, indexing="xy"), dim=-1).reshape(-1, 2)
    dense = mixture.log_density(grid, reach / SIDE * 2).reshape(SIDE, SIDE)
    share = ((dense - dense.max() + 6) / 6).clamp(0, 1).sqrt().numpy()[..., None]
    pixels = np.array(PAPER) * (1 - share) + np.array(DARK) * share
    return Image.fromarray(pixels.round().astype(np.uint8))


def drawn(image: Image.Image, panel: Panel, reach: float) -> Image.Image:
    """Draw samples and paths over the density."""
    draw = ImageDraw.Draw(image)

    def place(points: Tensor) -> list[tuple[float, float]]:
        scaled = (points.double() / reach * torch.tensor([1.0, -1.0]) + 1) / 2 * SIDE
        return [(float(x), float(y)) for x, y in scaled]

    for path in () if panel.paths is None else panel.paths.unbind(1):
        draw.line(place(path), fill=PATH, width=1)
    for x, y in place(panel.samples):
        draw.ellipse((x - 1.1, y - 1.1, x + 1.1, y + 1.1), fill=POINT)
    return image
