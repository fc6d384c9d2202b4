"""Pictures that are something else inside: no program is started, whatever they are called."""

import zipfile

import numpy as np
import pytest
from PIL import Image

from elucid.dnnlib.errors import UserError
from elucid.training.data.dataset import open_dataset
from elucid.training.data.pictures import load_picture
from elucid.training.sampling.output.forms import read_note
from tests import scripts

EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 8 8
%%EndComments
showpage
%%EOF
"""


@pytest.fixture
def decoy(tmp_path, monkeypatch):
    """A `gs` that comes first in PATH and says that it ran."""
    canary, place = tmp_path / "canary", tmp_path / "bin"
    place.mkdir()
    for name in ("gs", "gswin32c", "gswin64c"):
        (place / name).write_text(f"#!/bin/sh\ntouch {canary}\n")
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(place), prepend=":")
    return canary


@pytest.fixture
def places(tmp_path):
    """A folder and a zip, each with one good picture and one that is EPS inside."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "a.png")
    (folder / "b.png").write_bytes(EPS)
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for name in ("a.png", "b.png"):
            archive.write(folder / name, name)
    return {"folder": folder, "zip": tmp_path / "pictures.zip"}


def test_the_decoy_works(decoy):
    """Pillow by itself starts it: what the other tests exclude would be seen."""
    import io

    with pytest.raises(OSError):
        Image.open(io.BytesIO(EPS)).load()
    assert decoy.exists()


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("command", ["convert", "verify", "train", "fid"])
def test_no_program_is_started(command, kind, places, decoy, tmp_path, monkeypatch, capsys):
    source = places[kind]
    call = {
        "convert": ["dataset_tool.py", f"--source={source}", f"--dest={tmp_path / 'out.zip'}"],
        "verify": ["dataset_tool.py", "verify", f"--source={source}"],
        "train": ["train.py", f"--data={source}", "-n", "--device=cpu"],
        "fid": ["fid.py", "ref", f"--data={source}", f"--dest={tmp_path / 'ref.npz'}", "--detector=random"],
    }[command]
    code, out, err = scripts.call(monkeypatch, capsys, *call)
    assert not decoy.exists(), "Ghostscript was started"
    if command == "convert":  # which leaves out what it cannot read, and says so
        assert "b.png" in out + err
    else:
        assert code in (1, 2) and "b.png" in out + err and "Traceback" not in err


def test_readers_refuse_it(places, decoy):
    with pytest.raises(UserError, match="b.png"):
        open_dataset(places["folder"], check=False).image(1)
    with pytest.raises(UserError, match="x.png is empty, corrupt or not an image"):
        load_picture(EPS, "x.png")
    assert read_note(places["folder"] / "b.png") is None
    assert not decoy.exists()
