"""Servers and addresses that are odd end in one line, and what is kept is whole or not there."""

import re
import socket
import threading
from contextlib import contextmanager

import pytest

from elucid.dnnlib import files
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import kept
from elucid.dnnlib.reading.addresses import Unsafe, require_safe
from elucid.dnnlib.remote.download import download

HEAD = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def server(*answers: bytes):
    """A server that gives these bytes, one after the other, to those who ask; the last again and again."""
    waiting = list(answers)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        done = threading.Event()

        def serve():
            while not done.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(2)
                    connection.recv(10_000)
                    connection.sendall(waiting.pop(0) if len(waiting) > 1 else waiting[0])

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/x.pkl"
        finally:
            done.set()
            thread.join()


def refused(url: str, folder, **options) -> str:
    with pytest.raises(UserError) as error:
        download(url, folder / "x.pkl", "snapshot", **{"tries": 2, "backoff": 0, "timeout": (2, 2), **options})
    assert not (folder / "x.pkl").exists() and str(error.value).isprintable()
    return str(error.value)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n\r\n",
        b"hello\n" * 1000,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 99999 OK\r\n\r\n",
        b"HTTP/1.1 200 " + b"x" * 100_000 + b"\r\n\r\n",
        HEAD + b"X: " + b"y" * 100_000 + b"\r\n\r\n",
        HEAD + b"X: y\r\n" * 300 + b"\r\n",
        HEAD + b"Content-Length: 99\r\n\r\nshort",
        HEAD + b"Content-Length: -5\r\n\r\nhello",
        HEAD + b"Content-Length: many\r\n\r\nhello",
        HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nhello",
        HEAD + b"Content-Length: 999999999999999999\r\n\r\nhello",
        HEAD + b"Content-Length: 5, 6\r\n\r\nhello",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n",
        HEAD + b"Transfer-Encoding: gzip\r\n\r\nhello",
        HEAD + b"\r\nhello",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 206 Partial\r\nContent-Length: 5\r\nContent-Range: bytes 0-4/5\r\n\r\nhello",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 401 \x1b[31mNo\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: \r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere.example/x\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: /x.pkl\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:99999/\r\n\r\n",
    ],
)
def test_odd_answers(answer, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with server(answer) as url:
        assert url in refused(url, tmp_path)


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "https://",
        "https:///x",
        "http://[",
        "https://[::1",
        "https://a b/x",
        "https://a\x00b/x",
        "https://x:99999/",
        "https://x:port/",
        "https://\u202e/x",
        "https://" + "x" * 70_000,
        "https://" + "x" * 300 + "/" + "y" * 300,
        "https://..",
        "https://x" + ".y" * 200,
        "https://user:secret@[",
        "http://example.invalid/x.pkl",
        "HTTP://EXAMPLE.invalid/x.pkl",
    ],
)
def test_odd_addresses(url, tmp_path, monkeypatch):
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path))
    with pytest.raises(UserError) as error:
        files.fetch(url, "snapshot", tries=1, backoff=0, timeout=(2, 2))
    assert str(error.value).isprintable() and len(str(error.value)) < 5000


def test_plain_http_by_option_only(monkeypatch):
    monkeypatch.delenv("ELUCID_ALLOW_HTTP", raising=False)
    for url in ("https://x.org/a", "http://localhost/a", "http://127.0.0.1:8000/a", "http://[::1]/a"):
        assert require_safe(url) == url
    with pytest.raises(Unsafe, match="ELUCID_ALLOW_HTTP=1"):
        require_safe("http://x.org/a")
    with pytest.raises(Unsafe, match="from https to plain http"):
        require_safe("http://127.0.0.1/a", before="https://x.org/a")
    monkeypatch.setenv("ELUCID_ALLOW_HTTP", "1")
    assert require_safe("http://x.org/a")
    for url in ("ftp://x.org/a", "file:///etc/passwd", "data:,x"):
        with pytest.raises(Unsafe):
            require_safe(url, before="http://x.org/a")
    with pytest.raises(Unsafe, match="from https to plain http"):
        require_safe("http://x.org/a", before="https://x.org/a")


def test_a_server_that_drips(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("elucid.dnnlib.remote.download._SLOWEST", 1e15)  # so that all servers drip
    with server(HEAD + b"Content-Length: 5\r\n\r\nhello") as url:
        assert "bytes per second" in refused(url, tmp_path, patience=0.0)


def test_a_full_disk_is_seen_before(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    with server(HEAD + b"Content-Length: %d\r\n\r\nx" % (19 * 10**9)) as url:
        monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
        assert "1000 are free" in refused(url, tmp_path)


def test_copies_that_have_changed_are_loaded_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "*")
    with server(HEAD + b"Content-Length: 5\r\n\r\nhello") as url:
        path = files.fetch(url, "snapshot")
        assert kept.sum_of(path).is_file() and path.read_bytes() == b"hello"
        path.write_bytes(b"jello")
        assert files.fetch(url, "snapshot").read_bytes() == b"hello"
        assert "has changed since it was downloaded" in capsys.readouterr().err
        kept.sum_of(path).unlink()
        path.write_bytes(b"older")
        assert files.fetch(url, "snapshot").read_bytes() == b"older"
        assert re.search("note: .* kept no hash", capsys.readouterr().err)
        path.write_bytes(b"other")  # from now on it is known
        assert files.fetch(url, "snapshot").read_bytes() == b"hello"
