"""What every reader of files relies on: checksums, limits, clean texts, JSON, zips, folders and streams."""

import gzip
import io
import os
import pickle
import stat
import zipfile

import numpy as np
import pytest
import torch

from elucid.dnnlib import errors
from elucid.dnnlib.errors import UserError, clean, note
from elucid.dnnlib.reading import checksums, limits
from elucid.dnnlib.reading.json_text import parse_json
from elucid.dnnlib.reading.regular import read_regular, regular_files
from elucid.dnnlib.reading.streams import bounded
from elucid.dnnlib.reading.zips import zip_members
from elucid.torch_utils.guards.budget import Budget
from elucid.torch_utils.guards.finite import require_finite
from elucid.torch_utils.guards.torch_files import load_torch
from elucid.training.data.archives import open_files


def written(path, save):
    with open(path, "wb") as file:
        save(file)
        checksums.seal(file)
    return path


KINDS = {
    "pickle": lambda file: pickle.dump({"a": [1.5] * 20}, file, protocol=4),
    "torch": lambda file: torch.save({"a": torch.arange(9)}, file),
    "npz": lambda file: np.savez(file, a=np.arange(9)),
}
READERS = {
    "pickle": lambda path: pickle.loads(path.read_bytes())["a"],
    "torch": lambda path: torch.load(path, weights_only=True)["a"].tolist(),
    "npz": lambda path: np.load(path)["a"].tolist(),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_readers_do_not_see_the_checksum(kind, tmp_path):
    path = written(tmp_path / "x", KINDS[kind])
    assert checksums.verify(path) and READERS[kind](path) in ([1.5] * 20, list(range(9)))
    if kind != "pickle":
        with zipfile.ZipFile(path) as archive:
            assert archive.testzip() is None and len(archive.comment) == checksums.SIZE


@pytest.mark.parametrize("kind", KINDS)
def test_every_single_bit_counts(kind, tmp_path):
    """Each bit of the last 300 bytes, the checksum among them, and every eleventh of the others."""
    data = bytearray(written(tmp_path / "x", KINDS[kind]).read_bytes())
    last = max(8 * (len(data) - 300), 0)
    for bit in [*range(0, last, 11), *range(last, 8 * len(data))]:
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(UserError, match="its checksum does not fit"):
            checksums.content(bytes(data), "x")
        data[bit // 8] ^= 1 << bit % 8
    assert checksums.content(bytes(data), "x")[1]


def test_files_without_a_checksum(tmp_path, capsys):
    for data in (b"", b"\x80\x04N.", bytes(100)):
        (tmp_path / "x").write_bytes(data)
        assert not checksums.verify(tmp_path / "x") and checksums.content(data, "x") == (data, False)
    for _ in range(2):
        checksums.note_missing(tmp_path / "x")
    assert capsys.readouterr().err.count("has no checksum") == 1


def test_texts_are_harmless():
    text = clean("a\x1b]0;title\x07\r\nb \u202egnp.exe \ud800 " + "x" * 9999)
    assert text.isprintable() and "\\x1b" in text and "\\u202e" in text and "\\ud800" in text and len(text) < 800
    assert clean("naïve 文字 👍") == "naïve 文字 👍"
    assert str(UserError("a\x1b[31m\nb")) == "a\\x1b[31m b"
    assert len(clean("y " * 9999)) <= 4000


def test_notes_are_printed_once_by_the_main_process(capsys, monkeypatch):
    monkeypatch.setattr(errors, "_noted", set())
    monkeypatch.setenv("RANK", "1")
    note("other\x1b")
    monkeypatch.setenv("RANK", "0")
    for _ in range(2):
        note("main\x1b")
    assert capsys.readouterr().err == "note: main\\x1b\n"


def test_limits_are_raised_by_a_variable(monkeypatch):
    with pytest.raises(UserError, match="raise ELUCID_MAX_PIXELS"):
        limits.PIXELS.require(10**9, "x: its size")
    monkeypatch.setenv("ELUCID_MAX_PIXELS", "1000000000")
    limits.PIXELS.require(10**9, "x")
    for text in ("many", "-1", "0", "9" * 30):
        monkeypatch.setenv("ELUCID_MAX_PIXELS", text)
        with pytest.raises(UserError, match="ELUCID_MAX_PIXELS"):
            limits.PIXELS.require(1, "x")


@pytest.mark.parametrize(
    "text, match",
    [
        (b"[" * 100_000, "nested too deeply|not valid JSON"),
        (b"[" * 200 + b"]" * 200, "nested too deeply"),
        (b'["\\ud800"]', "half a character"),
        (b'["\xe9"]', "not valid JSON"),
        (b"9" * 5000, "not valid JSON"),
        (b"[]," * 3_000_000, "lists and objects.*ELUCID_MAX_ITEMS"),
        (b" " * 65_000_000, "ELUCID_MAX_JSON_BYTES"),
    ],
)
def test_json(text, match):
    with pytest.raises(UserError, match=f"x.json.*({match})"):
        parse_json(text, "x.json")


def test_json_of_large_data_sets():
    text = b"[" + b",".join(b'["%08d.png",1]' % number for number in range(20_000)) + b"]"
    assert len(parse_json(text, "x", files=20_000)) == 20_000
    assert parse_json(b'"\\ud83d\\udc4d"', "x") == "👍"  # two halves are a whole character


def make_zip(path, *entries, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for entry, data in entries:
            archive.writestr(entry, data)
    return path


@pytest.mark.parametrize("name", ["../a", "x/../a", "/a", "C:\\a", "..\\a", "__MACOSX/../../a"])
def test_zip_entries_that_lead_outside(name, tmp_path):
    with pytest.raises(UserError, match="x.zip has the entry .*leads outside"):
        zip_members(make_zip(tmp_path / "x.zip", ("good", b""), (name, b"")))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_zip_entries_that_are_no_files(kind, tmp_path):
    info = zipfile.ZipInfo("a")
    info.create_system, info.external_attr = 3, (kind | 0o644) << 16
    with pytest.raises(UserError, match="a link or device"):
        zip_members(make_zip(tmp_path / "x.zip", (info, b"/etc/passwd")))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_zips_that_are_too_much(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="two entries a"):
        zip_members(make_zip(tmp_path / "twice.zip", ("a", b"1"), ("./a", b"2")))
    bomb = make_zip(tmp_path / "bomb.zip", ("a", bytes(20_000_000)), method=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="bomb.zip/a expands from .*ELUCID_MAX_RATIO"):
        zip_members(bomb)
    monkeypatch.setenv("ELUCID_MAX_RATIO", "2000")
    files = open_files(bomb)
    assert len(files.read(0)) == 20_000_000
    monkeypatch.setenv("ELUCID_MAX_FILE_BYTES", "1000000")
    with pytest.raises(UserError, match="ELUCID_MAX_FILE_BYTES"):
        files.read(0)


def test_an_entry_is_never_longer_than_it_says(tmp_path):
    path = make_zip(tmp_path / "x.zip", ("a", bytes(1_000_000)), method=zipfile.ZIP_DEFLATED)
    data = bytearray(path.read_bytes())
    start = data.rindex(b"PK\x01\x02")
    data[start + 24 : start + 28] = (100).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        open_files(path).read(0)


def test_only_regular_files_are_opened(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/b.txt").symlink_to("../a.txt")
    (tmp_path / "inner/again").symlink_to("..")
    (tmp_path / "zero").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    assert regular_files(str(tmp_path)) == (["a.txt", "inner/b.txt"], ["pipe", "zero"])
    for name in ("pipe", "zero", "inner"):
        with pytest.raises(OSError):
            read_regular(str(tmp_path / name))
    assert open_files(tmp_path).names == ["a.txt", "inner/b.txt"]
    assert "left out 2 pipes" in capsys.readouterr().err


def test_streams_stop(tmp_path, monkeypatch):
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(bytes(30_000_000)))
    with open(path, "rb") as file, bounded(file, path) as content, pytest.raises(UserError, match="ELUCID_MAX_RATIO"):
        content.read()
    monkeypatch.setenv("ELUCID_MAX_ARRAY_BYTES", "1000000")
    path.write_bytes(os.urandom(3_000_000))
    with open(path, "rb") as file, bounded(file, path) as content, pytest.raises(UserError, match="ARRAY_BYTES"):
        content.read()


def test_what_is_not_finite_is_named():
    require_finite({"a": torch.ones(3), "b": [1.5, torch.tensor([2])], "c": torch.zeros(0), "d": None}, "x")
    for bad in (float("nan"), float("inf"), -float("inf")):
        for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            with pytest.raises(UserError, match="x: a.1.b is not finite"):
                require_finite({"a": [0, {"b": torch.tensor([1.0, bad], dtype=dtype)}]}, "x")
        with pytest.raises(UserError, match="x: a is not finite"):
            require_finite({"a": bad}, "x")


def test_networks_without_end():
    with pytest.raises(UserError, match="too large"), Budget(1000, "too large"):
        torch.nn.Linear(100, 100)
    with pytest.raises(UserError, match="ELUCID_MAX_LAYERS"), Budget(None, ""), torch.device("meta"):
        layers = torch.nn.Sequential()
        for _ in range(10**9):
            layers.append(torch.nn.Identity())
    torch.nn.Sequential(*(torch.nn.Identity() for _ in range(30_000)))  # nothing is counted outside


def test_tensors_larger_than_their_file(tmp_path):
    path = tmp_path / "x.pt"
    for content in ({"a": torch.zeros(1).expand(1 << 30)}, {"a": torch.zeros(1 << 40, device="meta")}):
        torch.save(content, path)
        with pytest.raises(UserError, match="larger than the file|not a dense one"):
            load_torch(path)
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1 << 20)}, buffer)
    with zipfile.ZipFile(buffer) as old:
        make_zip(path, *((name, old.read(name)) for name in old.namelist()), method=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        load_torch(path)
