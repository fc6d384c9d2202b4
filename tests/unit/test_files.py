"""Files are written whole or not at all; downloads and paths fail with one line."""

import hashlib

import pytest

from elucid.dnnlib import files
from elucid.dnnlib.errors import UserError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "value"
    with files.atomic_write(path) as file:
        file.write(b"old")
    with pytest.raises(RuntimeError), files.atomic_write(path) as file:
        file.write(b"half of the n")
        raise RuntimeError("killed")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["value"]


def test_a_failed_write_leaves_no_new_folders(tmp_path):
    (tmp_path / "old").mkdir()
    with pytest.raises(RuntimeError), files.atomic_write(tmp_path / "old/new/newer/value"):
        raise RuntimeError("killed")
    assert [entry.name for entry in tmp_path.rglob("*")] == ["old"]


def test_outputs_that_cannot_be_written_are_named_before_and_after(tmp_path):
    files.require_writable(tmp_path / "new/value")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_bytes(b"old")
    files.require_writable(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"old"
    for path in (tmp_path, tmp_path / "file/value"):
        with pytest.raises(UserError, match=str(path)):
            files.require_writable(path)
    with pytest.raises(UserError, match="file/value cannot be written"), files.write_output(tmp_path / "file/value"):
        pass


def test_sha256(tmp_path):
    path = tmp_path / "value"
    path.write_bytes(b"abc" * 1000000)
    assert files.sha256(path) == hashlib.sha256(b"abc" * 1000000).hexdigest()


def test_fetch_of_a_missing_path():
    with pytest.raises(UserError, match="snapshot not found: nowhere.pkl"):
        files.fetch("nowhere.pkl", "snapshot")


def test_fetch_of_a_folder(tmp_path):
    with pytest.raises(UserError, match="snapshot .* is a folder; give the file in it"):
        files.fetch(tmp_path, "snapshot")


def test_fetch_of_an_unreachable_url(tmp_path, monkeypatch):
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(UserError, match="cannot download snapshot http://127.0.0.1:9/x.pkl.*give its path"):
        files.fetch("http://127.0.0.1:9/x.pkl", "snapshot", backoff=0)
    assert not list(tmp_path.rglob("*.pkl*"))
