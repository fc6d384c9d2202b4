"""Numbers of images with prefixes, in flags and options: exact to the image, and mistakes name the flag."""

import itertools

import pytest

from elucid import TrainOptions
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.values import images_in, whole_images
from tests import scripts


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("2Ki", 2048),
        ("1.5Mi", 1572864),
        ("2Gi", 2**31),
        ("128k", 128000),
        ("0.3M", 300000),
        ("1G", 10**9),
        ("64", None),
    ],
)
def test_texts(text, images):
    assert whole_images(text) == images


def test_steps_of_any_batch_reach_the_number_exactly():
    """A tick ends, and a run, at the first step with that many images: one rounded up would take a step more."""
    for count, prefix in itertools.product([*range(1, 3000, 7), 2**24 - 1], ("k", "Ki", "Mi")):
        images = whole_images(f"{count}{prefix}")
        for unit in (1000, 10**6):
            value = images_in(f"{count}{prefix}", unit)
            assert images - 1 < value * unit <= images and round(value * unit) == images


def flags(**options):
    return TrainOptions(data="x.zip", **options).flags()


def test_options():
    found = flags(duration="2Gi", batch="2Ki", batch_gpu="auto", tick="128Ki", snap="8Mi", dump="128Mi", ema="512Ki")
    names = ("duration", "batch", "batch_gpu", "tick", "snap", "dump", "ema")
    assert [found[name] for name in names] == [2147.483648, 2048, "auto", 131.072, 64, 1024, [0.524288]]
    assert flags(preset="demo", snap=3)["snap"] == 3 and flags(preset="demo", tick="0.5")["tick"] == 0.5


@pytest.mark.parametrize(
    ("option", "value"),
    [("batch", "2Q"), ("batch", "1.5"), ("batch", "1.0001Ki"), ("duration", "nan"), ("ema", ["1Mi", "x"])]
    + [("snap", "100Ki"), ("dump", "often")],
)
def test_mistakes_in_options(option, value):
    with pytest.raises(UserError, match=f"`{option}`="):
        flags(tick="128Ki", **{option: value})


@pytest.mark.parametrize(
    "flag",
    ["--batch=2Kx", "--batch=1.0001Ki", "--batch-gpu=1.5", "--duration=0Ki", "--duration=x", "--tick=1Q", "--snap=8Mx"]
    + ["--ema=1Mi,3Q", "--milestones=-1Ki", "--duration=99Gi", "--batch=2Mi"],
)
def test_mistakes_on_the_command_line(flag, monkeypatch, capsys):
    code, _, err = scripts.call(monkeypatch, capsys, "train.py", "--data=x.zip", "--outdir=out", flag)
    assert code == 2 and flag.partition("=")[0] in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("flag", "ours"),
    [("--status=128Ki", "--tick"), ("--snapshot=8Mi", "--snap"), ("--checkpoint=128Mi", "--dump")]
    + [("--decay=70000", "reference_mimg"), ("--P_mean=-0.4", "noise.P_mean"), ("--P_std=1", "noise.P_std")],
)
def test_flags_of_the_other_program_name_ours(flag, ours, monkeypatch, capsys):
    code, _, err = scripts.call(monkeypatch, capsys, "train.py", "--data=x.zip", "--outdir=out", flag)
    assert code == 2 and ours in err
