"""Windows of a coordinate field: a window shows what the whole picture has there."""

import pytest
import torch
from torch import nn

from elucid.dnnlib.errors import UserError
from elucid.training.guidance.window import CoordinateWindow, windowed
from elucid.training.losses.patch import crop, with_coordinates
from elucid.training.preconds.edm import EDMPrecond
from elucid.training.types import Batch, NetSpec


class Pointwise(nn.Module):
    """A network whose every pixel depends on that pixel and its coordinates alone."""

    halvings = 1

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1))

    def forward(self, x, c_noise, cond):
        image, x_coord, y_coord = x.chunk(3, dim=1)
        return self.gain * (image + 2 * x_coord + 5 * y_coord**2) * (1 + c_noise[:, None, None, None])


def denoiser(height=8, width=12, coords=2):
    return EDMPrecond(Pointwise(), NetSpec((height, width), 1, spatial={"coords": coords}))


@torch.no_grad()
@pytest.mark.parametrize(("left", "top", "side"), [(0, 0, 4), (3, 2, 6), (8, 4, 4)])
def test_a_part_is_the_part_of_the_whole(left, top, side):
    whole, sigma = denoiser(), torch.tensor([0.3, 2.0])
    x = torch.randn(2, 1, 8, 12)
    window = windowed(whole, left, top, side)
    assert window.spec.sample_shape == (1, side, side)
    cut = x[:, :, top : top + side, left : left + side]
    expected = whole(x, sigma).x0[:, :, top : top + side, left : left + side]
    torch.testing.assert_close(window(cut, sigma).x0, expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_larger_canvas_has_the_whole_in_it():
    whole = denoiser()
    x = torch.randn(1, 1, 16, 16)
    canvas = windowed(whole, -2, -4, 16)(x, 1.0).x0
    torch.testing.assert_close(canvas[:, :, 4:12, 2:14], whole(x[:, :, 4:12, 2:14], 1.0).x0, rtol=1e-5, atol=1e-6)


def test_coordinates_are_those_of_training_crops():
    cropped = crop(with_coordinates(Batch(torch.zeros(1, 1, 8, 12))), torch.tensor([3]), torch.tensor([5]), 4, 4)
    window = CoordinateWindow(denoiser(), 5, 3, (4, 4))
    torch.testing.assert_close(window.coords, cropped.cond["coords"][0])


def test_the_whole_is_left_as_it_is():
    square = denoiser(8, 8)
    assert windowed(square, None, None, None) is square and windowed(square, 0, 0, 8) is square
    assert windowed(square, 1, None, None).spec.resolution == (8, 8)


def test_refusals():
    with pytest.raises(UserError, match="without coordinates"):
        windowed(denoiser(coords=0), 0, None, None)
    with pytest.raises(UserError, match="`image_size`=5 must be a multiple of 2"):
        windowed(denoiser(), 0, 0, 5)
