"""Images that cannot be scored: one line that names them, exit code 2, and nothing written."""

import numpy as np
import pytest
from PIL import Image

from tests import scripts


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Folders of images: real ones, and some that have something wrong with them."""
    folder, random = tmp_path_factory.mktemp("sets"), np.random.RandomState(0)

    def write(name: str, num: int, shape: tuple[int, ...], prefix: str = "") -> None:
        (folder / name).mkdir(exist_ok=True)
        for index in range(num):
            pixels = random.randint(0, 256, shape, np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{prefix}{index:02d}.png")

    write("real", 12, (16, 16, 3))
    write("single", 1, (16, 16, 3))
    write("tiny", 12, (4, 4, 3))
    write("transparent", 12, (16, 16, 4))
    for name, shape in (("sizes", (24, 24, 3)), ("channels", (16, 16))):
        write(name, 6, (16, 16, 3))
        write(name, 6, shape, prefix="z")
    (folder / "empty").mkdir()
    (folder / "nan.py").write_text(
        "import torch\nfrom elucid.metrics.detectors import Detector\n\n"
        "class Broken(Detector):\n    name, dim, sha256, resize = 'broken', 2, '0' * 64, 'none'\n"
        "    def __init__(self, device, weights):\n        self.device = device\n"
        "    def features(self, images):\n        return torch.full((len(images), 2), float('nan'))\n"
    )
    return folder


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--images={d}/real --ref={d}/real --num=13", "12 images, fewer than --num=13"),
        ("--images={d}/empty --ref={d}/real --num=12", "empty contains no images"),
        ("--images={d}/real --ref={d}/empty --num=12", "empty contains no images"),
        ("--images={d}/real --ref={d}/single --num=12", "at least two images, not 1"),
        ("--images={d}/tiny --ref={d}/tiny --num=12", "at least 8x8, not 4x4"),
        ("--images={d}/sizes --ref={d}/real --num=12", "several sizes"),
        ("--images={d}/channels --ref={d}/real --num=12", "gray and RGB images"),
        ("--images={d}/real --ref={d}/transparent --num=12", "RGBA"),
        ("--images={d}/real --ref={d}/real --num=12 --detector={d}/nan.py:Broken", "not finite"),
    ],
)
def test_one_line_and_nothing_written(monkeypatch, capsys, sets, tmp_path, flags, reason):
    detector = () if "--detector" in flags else ("--detector=random",)
    kept = f"--features={tmp_path}/kept.npz"
    arguments = (*flags.format(d=sets).split(), *detector, kept, "--device=cpu")
    code, out, err = scripts.call(monkeypatch, capsys, "fid.py", "calc", *arguments)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (code, out, len(errors)) == (2, "", 1) and reason in errors[0]
    assert not list(tmp_path.iterdir())


def test_flags_with_hyphens_mean_the_same(monkeypatch, capsys, tmp_path):
    """`--class-policy` is `--class_policy`; a class that the model lacks is refused."""
    from tests.snapshots import save_random_snapshot

    snapshot = save_random_snapshot(tmp_path / "snapshot.pkl", channels=1, classes=3)
    flags = (f"--network={snapshot}", "--seeds=0-2", "--steps=1", "--device=cpu")
    made = (f"--outdir={tmp_path}/made", "--labels")
    code, _, err = scripts.call(monkeypatch, capsys, "generate.py", *made, *flags, "--class-policy=equal")
    assert code == 0, err
    labels = (tmp_path / "made/dataset.json").read_text()
    assert all(f", {number}]" in labels for number in (0, 1, 2))
    code, _, err = scripts.call(monkeypatch, capsys, "generate.py", *made, *flags, "--class-policy=even")
    assert code == 2 and err.count("error: ") == 1 and "even" in err
    code, _, err = scripts.call(monkeypatch, capsys, "generate.py", *made, *flags, "--class=3")
    assert code == 2 and err.count("error: ") == 1 and "3" in err
