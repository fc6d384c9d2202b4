"""What is computed of a reference of images is kept, and used only for the same images, detector and metrics."""

import os

import numpy as np
import pytest
from PIL import Image

from tests import scripts


@pytest.fixture
def fid(monkeypatch, capsys, tmp_path):
    """Lines of stdout and what stderr says, of fid.py calc on 20 images against 30."""
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))
    random = np.random.RandomState(0)
    for name, num in (("real", 30), ("made", 20)):
        (tmp_path / name).mkdir()
        for index, image in enumerate(random.randint(0, 256, (num, 8, 8, 3), np.uint8)):
            Image.fromarray(image).save(tmp_path / name / f"{index:02d}.bmp")

    def call(*args, detector="random"):
        source = (f"--images={tmp_path}/made", "--num=20", f"--ref={tmp_path}/real", f"--detector={detector}")
        code, out, err = scripts.call(monkeypatch, capsys, "fid.py", "calc", *source, "--device=cpu", *args)
        assert code == 0, err
        return out.splitlines()[-1], err

    return call


def test_the_reference_is_computed_once(fid, tmp_path):
    value, said = fid()
    (kept,) = (tmp_path / "cache/references").iterdir()
    assert f"kept in {kept}" in said
    again, said = fid("--batch=3")
    assert again == value and f"read from {kept}" in said and "--cache=0" in said
    computed, said = fid("--cache=0")
    assert computed == value and "references" not in said
    _, said = fid("--metrics=kid,pr")  # which need more than there is
    assert "kept in" in said and fid("--metrics=kid,pr")[1].count("read from") == 1


def test_other_pixels_in_the_same_file_are_another_reference(fid, tmp_path):
    """Of equal size and time of modification, which a fingerprint by them would miss."""
    value, _ = fid()
    path = tmp_path / "real/00.bmp"
    before = path.stat()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    other, said = fid()
    assert other != value and "kept in" in said


def test_a_damaged_file_is_replaced(fid, tmp_path):
    value, _ = fid()
    (kept,) = (tmp_path / "cache/references").iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    again, said = fid()
    assert again == value and "is not used" in said and "kept in" in said
    assert "read from" in fid()[1]


def test_no_reference_is_kept_of_external_code(fid, tmp_path):
    """It may change without its hash."""
    (tmp_path / "mine.py").write_text(
        "from elucid.metrics.detectors import Detector\n\n"
        "class Pixels(Detector):\n    name, dim, sha256, resize = 'pixels', 4, '0' * 64, 'none'\n"
        "    def __init__(self, device, weights):\n        self.device = device\n"
        "    def features(self, images):\n        return images[:, 0, ::4, ::4].float().flatten(1)\n"
    )
    fid(detector=f"{tmp_path}/mine.py:Pixels")
    assert not (tmp_path / "cache").exists()
