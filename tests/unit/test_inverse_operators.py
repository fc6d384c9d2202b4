"""Operators of inverse problems: their values, their adjoints, those of users, and refusals."""

import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from elucid.dnnlib.errors import UserError
from elucid.training.inverse.checks import require_adjoint, require_linear
from elucid.training.inverse.operators.base import LinearOperator
from elucid.training.inverse.operators.blur import Blur
from elucid.training.inverse.operators.fourier import FourierMask
from elucid.training.inverse.operators.identity import Identity
from elucid.training.inverse.operators.inpaint import Inpaint
from elucid.training.inverse.operators.superres import SuperResolution
from elucid.training.registry.components import make

SHAPE = (3, 6, 8)
U = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
MASK = (torch.arange(48).reshape(6, 8) % 3 == 0).numpy()
KERNEL = torch.randn(3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "mask.npy", MASK)
    np.save(tmp_path / "channels.npy", np.stack([MASK, ~MASK, MASK]).astype(np.float32))
    np.save(tmp_path / "kernel.npy", KERNEL.numpy())
    Image.fromarray(MASK.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    return tmp_path


def operators(files):
    return {
        "identity": Identity(),
        "inpaint": Inpaint(f"{files}/mask.png"),
        "inpaint, channels": Inpaint(f"{files}/channels.npy"),
        "superres": SuperResolution(2),
        "superres, sides": SuperResolution([3, 4]),
        "blur": Blur(1.2),
        "blur, zero": Blur(1.2, "zero"),
        "blur, kernel": Blur(f"{files}/kernel.npy"),
        "blur, kernel, zero": Blur(f"{files}/kernel.npy", "zero"),
        "fourier": FourierMask(f"{files}/mask.npy"),
    }


def test_all_are_linear_and_have_their_adjoint(files):
    for name, operator in operators(files).items():
        for shape in (SHAPE, (1, 6, 8)) if "channels" not in name else (SHAPE,):
            require_linear(operator, shape)
            require_adjoint(operator, shape)
        y = operator(U.float())
        assert y.dtype == torch.float32 == operator.adjoint(y).dtype, name
        assert torch.allclose(operator(U)[1:], operator(U[1:])), name


def test_spectra_have_the_height_one():
    for operator in (SuperResolution([1, 4]), Blur(2.0), Blur(2.0, "zero")):
        require_adjoint(operator, (2, 1, 16))
    assert torch.allclose(Blur(2.0)(torch.ones(1, 2, 1, 16)), torch.ones(1, 2, 1, 16), atol=1e-6)
    middle = Blur(1.0, "zero")(torch.ones(1, 1, 1, 32))[..., 10:22]
    assert torch.allclose(middle, torch.ones_like(middle), atol=1e-6)


def test_masks_of_pictures_and_arrays_are_the_same(files):
    one, other = Inpaint(f"{files}/mask.png"), Inpaint(f"{files}/mask.npy")
    assert torch.equal(one(U), other(U)) and torch.equal(one(U), U * torch.from_numpy(MASK))
    unknown = torch.full_like(U, torch.nan)
    assert torch.equal(one.observed(torch.where(torch.from_numpy(MASK), U, unknown)), one(U))
    assert len(one.metadata["sha256"]) == 64 != other.metadata["sha256"]


def test_blocks_are_means():
    y = SuperResolution([3, 4])(U)
    assert y.shape == (2, 3, 2, 2) and torch.allclose(y[0, 1, 1, 0], U[0, 1, 3:, :4].mean())


@pytest.mark.parametrize("boundary", ["circular", "zero"])
def test_blur_is_the_convolution(files, boundary):
    """With a kernel that is not symmetric and has an even side, so that mirrored or shifted ones would be found."""
    # torch correlates, so the kernel is turned; its middle (1, 2) is then at (1, 1).
    around = F.pad(U, (1, 2, 1, 1), "circular") if boundary == "circular" else F.pad(U, (1, 2, 1, 1))
    turned = KERNEL.flip(0, 1).expand(3, 1, 3, 4)
    expected = F.conv2d(around, turned, groups=3)
    assert torch.allclose(Blur(f"{files}/kernel.npy", boundary)(U), expected)


def test_a_kernel_larger_than_the_image_goes_around():
    assert torch.allclose(Blur(50.0)(U), U.mean((2, 3), keepdim=True).expand_as(U), atol=1e-4)
    assert float(Blur(50.0, "zero")(U).abs().max()) < 0.1


def test_fourier_coefficients_are_in_the_order_of_the_mask(tmp_path):
    low = np.zeros((6, 8))
    low[3, 4] = 1
    np.save(tmp_path / "low.npy", low)
    operator = FourierMask(f"{tmp_path}/low.npy")
    means = operator.adjoint(operator(U))
    assert torch.allclose(means, U.mean((2, 3), keepdim=True).expand_as(U))


class Mine:
    """Two lines of pixels added: only what is asked for, and not derived from the base class."""

    def __call__(self, images):
        return images[:, :, 0] + images[:, :, 1]

    def adjoint(self, y):
        images = y.new_zeros(len(y), SHAPE[0], 6, 8)
        images[:, :, 0] = images[:, :, 1] = y
        return images


def test_a_class_with_both_methods_is_an_operator(tmp_path):
    require_linear(Mine(), SHAPE)
    require_adjoint(Mine(), SHAPE)
    assert issubclass(Mine, LinearOperator) and not issubclass(int, LinearOperator)
    (tmp_path / "mine_op.py").write_text(
        "class Half:\n    def __init__(self, factor: float = 0.5):\n        self.factor = factor\n"
        "    def __call__(self, images):\n        return self.factor * images\n"
        "    def adjoint(self, y):\n        return self.factor * y\n"
        "class Lame:\n    def __call__(self, images):\n        return images\n"
    )
    made = make({"name": f"{tmp_path}/mine_op.py:Half", "factor": 0.25}, "operator")
    assert torch.equal(made(U), U / 4)
    with pytest.raises(UserError, match="adjoint|LinearOperator"):
        make(f"{tmp_path}/mine_op.py:Lame", "operator")


class Wrong(LinearOperator):
    """One mistake of several, by its name."""

    def __init__(self, mistake: str):
        self.mistake = mistake

    def __call__(self, images):
        if self.mistake == "offset":
            return images + 1
        if self.mistake == "clipped":
            return images.clamp(0, 1)
        if self.mistake == "fails":
            raise RuntimeError("expected scalar type Float")
        if self.mistake == "numpy":
            return images.numpy()
        return images.roll(1, 3) if self.mistake != "mixes" else images.roll(1, 0) + images

    def adjoint(self, y):
        if self.mistake == "shape":
            return y[:, :1]
        return y.roll(1, 3) if self.mistake != "mixes" else y


@pytest.mark.parametrize("mistake", ["offset", "clipped", "fails", "numpy"])
def test_what_is_not_linear_is_refused(mistake):
    with pytest.raises(UserError, match="`operator`.*Wrong"):
        require_linear(Wrong(mistake), SHAPE)


@pytest.mark.parametrize("mistake", ["direction", "shape", "mixes"])
def test_a_wrong_adjoint_is_refused(mistake):
    with pytest.raises(UserError, match="`operator`.*Wrong") as caught:
        require_adjoint(Wrong(mistake), SHAPE)
    if mistake != "shape":
        one, other = (float(number) for number in re.findall(r"= (-?[\d.e+-]+\d)", str(caught.value)))
        assert one != other


def test_bad_options_and_files_are_refused(files):
    np.save(files / "none.npy", np.zeros((6, 8)))
    np.save(files / "line.npy", np.ones(8))
    np.save(files / "small.npy", np.ones((3, 8)))
    np.save(files / "nan.npy", np.full((6, 8), np.nan))
    np.save(files / "words.npy", np.array(["a"]))
    np.save(files / "objects.npy", np.array([{}], dtype=object))
    (files / "text.png").write_text("no picture")
    for make_it, word in (
        (lambda: Inpaint(f"{files}/none.npy"), "none.npy"),
        (lambda: Inpaint(f"{files}/line.npy"), "line.npy"),
        (lambda: Inpaint(f"{files}/nan.npy"), "nan.npy"),
        (lambda: Inpaint(f"{files}/words.npy"), "words.npy"),
        (lambda: Inpaint(f"{files}/objects.npy"), "objects.npy"),
        (lambda: Inpaint(f"{files}/text.png"), "text.png"),
        (lambda: Inpaint(f"{files}/missing.png"), "missing.png"),
        (lambda: Inpaint(f"{files}/small.npy")(U), "small.npy"),
        (lambda: FourierMask(f"{files}/small.npy")(U), "small.npy"),
        (lambda: SuperResolution(0), "factor"),
        (lambda: SuperResolution([2]), "factor"),
        (lambda: SuperResolution(4)(U), "factor"),
        (lambda: Blur(0.0), "kernel"),
        (lambda: Blur(f"{files}/none.npy"), "none.npy"),
        (lambda: Blur(f"{files}/nan.npy"), "nan.npy"),
        (lambda: Blur(1.0, "mirror"), "boundary"),
    ):
        with pytest.raises(UserError, match=word):
            make_it()
