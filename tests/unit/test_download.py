"""Downloads survive servers that are busy, break off, change their mind or never end."""

import re
import socket
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from elucid.dnnlib import files
from elucid.dnnlib.errors import UserError
from elucid.dnnlib.progress import progress_bar
from elucid.dnnlib.remote import download as module
from elucid.dnnlib.remote.download import download

CONTENT = bytes(range(256)) * 1200  # several blocks
HALF = len(CONTENT) // 2


class Answers(BaseHTTPRequestHandler):
    """One file, with the faults that the server's `faults` name; `asked` has the headers of all requests."""

    def do_GET(self):
        server = self.server
        server.asked.append(self.headers)
        fault = server.faults.pop(0) if server.faults else None
        if isinstance(fault, tuple):
            status, headers = fault
            return self.answer(status, headers, b"no file")
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and server.ranges and (server.careless or self.headers["If-Range"] in server.tags.values()):
            start = int(asked[1])
        if start >= len(server.content) > 0:
            return self.answer(416, {"Content-Range": f"bytes */{len(server.content)}"}, b"")
        body = server.content[start:]
        headers = {**server.tags, "Content-Length": len(body)}
        if start:
            end = len(server.content)
            headers["Content-Range"] = f"bytes {start + server.slip}-{end - 1}/{end}"
        if server.unsized or server.chunked:
            del headers["Content-Length"]
        if server.chunked:
            headers["Transfer-Encoding"] = "chunked"
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        self.answer(206 if start else 200, headers, body[:fault] if isinstance(fault, int) else body)
        if server.resets and isinstance(fault, int):
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        server.content, server.tags, server.faults, server.asked = CONTENT, {"ETag": '"one"'}, [], []
        server.ranges, server.careless, server.unsized, server.resets, server.slip = True, False, False, False, 0
        server.chunked = False
        server.url = f"http://127.0.0.1:{server.server_port}/x.pkl"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server, folder, **options):
    """The content as it arrives, without waits between tries."""
    download(server.url, folder / "x.pkl", "snapshot", **{"backoff": 0, **options})
    assert left(folder) == ["x.pkl"]
    return (folder / "x.pkl").read_bytes()


def left(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix not in (".lock", ".sha256"))


def test_busy_servers_are_asked_again(server, tmp_path):
    server.faults = [(503, {}), (429, {}), (502, {})]
    assert get(server, tmp_path) == CONTENT and len(server.asked) == 4


def test_servers_that_stay_busy_are_named(server, tmp_path):
    server.faults = [(503, {})] * 9
    with pytest.raises(UserError, match=f"cannot download snapshot {server.url}: .* 503 .*; try again later") as error:
        get(server, tmp_path, tries=3)
    assert len(server.asked) == 3 and not left(tmp_path) and "\n" not in str(error.value)


def test_no_server_is_waited_for_as_long_as_it_likes(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST_WAIT", 0.01)
    server.faults = [(503, {"Retry-After": "3600"})]
    assert get(server, tmp_path) == CONTENT


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize(
    "tags", [{"ETag": '"one"'}, {"ETag": 'W/"one"', "Last-Modified": "Sat, 01 Jan 2022 00:00:00 GMT"}]
)
def test_a_broken_body_is_continued(server, tmp_path, tags, resets):
    server.faults, server.tags, server.resets = [HALF, 1000], tags, resets
    assert get(server, tmp_path) == CONTENT
    starts = [int(headers.get("Range", "bytes=0-")[6:-1]) for headers in server.asked]
    # A reset may take bytes along that were sent.
    assert len(starts) == 3 and starts == sorted(starts) and (resets or starts == [0, HALF, HALF + 1000])


def test_a_later_call_continues(server, tmp_path):
    server.faults = [HALF]
    with pytest.raises(UserError, match=f"{HALF} of {len(CONTENT)} bytes; try again to resume"):
        get(server, tmp_path, tries=1)
    assert left(tmp_path) == [".x.pkl.part", ".x.pkl.tag"]
    assert get(server, tmp_path) == CONTENT
    assert server.asked[-1]["Range"] == f"bytes={HALF}-" and server.asked[-1]["If-Range"] == '"one"'


@pytest.mark.parametrize("careless", [False, True])
def test_changed_content_starts_again(server, tmp_path, careless):
    """Also from a server that takes no notice of If-Range."""
    server.faults, server.careless = [HALF], careless
    with pytest.raises(UserError):
        get(server, tmp_path, tries=1)
    server.content, server.tags = CONTENT[::-1], {"ETag": '"two"'}
    assert get(server, tmp_path) == CONTENT[::-1]


def test_another_range_than_asked_for_is_not_taken(server, tmp_path):
    server.faults, server.slip = [HALF, None, None], 1
    assert get(server, tmp_path) == CONTENT and len(server.asked) == 3 and "Range" not in server.asked[-1]


def test_more_than_all_starts_again(server, tmp_path):
    (tmp_path / ".x.pkl.part").write_bytes(CONTENT)
    (tmp_path / ".x.pkl.tag").write_text('"one"')
    assert get(server, tmp_path) == CONTENT and len(server.asked) == 2


def test_servers_without_ranges_start_again(server, tmp_path):
    server.faults, server.ranges = [HALF, 1000], False
    assert get(server, tmp_path) == CONTENT and len(server.asked) == 3


def test_what_has_no_tag_starts_again_and_is_not_kept(server, tmp_path):
    server.faults, server.tags = [HALF, 1000, 1000], {}
    with pytest.raises(UserError, match=f"1000 of {len(CONTENT)} bytes"):
        get(server, tmp_path, tries=2)
    assert not left(tmp_path)
    assert get(server, tmp_path) == CONTENT and not any("Range" in headers for headers in server.asked)


def test_truncated_bodies_are_noticed(server, tmp_path):
    server.faults = [1000, 0, 0, 0]
    with pytest.raises(UserError, match=f"{server.url}.*1000 of {len(CONTENT)} bytes.*download it by hand"):
        get(server, tmp_path, tries=3)
    assert not (tmp_path / "x.pkl").exists() and len(server.asked) == 3


@pytest.mark.parametrize("unsized, found", [(False, len(CONTENT)), (True, f"more than {HALF}")])
def test_size_limit(server, tmp_path, unsized, found):
    server.chunked = unsized
    with pytest.raises(UserError, match=f"{server.url}: it has {found} bytes.*download it by hand and give its path"):
        get(server, tmp_path, max_bytes=HALF)
    assert not left(tmp_path) and len(server.asked) == 1
    assert get(server, tmp_path, max_bytes=len(CONTENT)) == CONTENT


def test_files_are_asked_for_as_they_are(server, tmp_path):
    """Lengths and ranges of compressed bodies would count other bytes; what is marked as compressed stays so."""
    server.tags["Content-Encoding"] = "gzip"
    assert get(server, tmp_path) == CONTENT and server.asked[0]["Accept-Encoding"] == "identity"


def test_what_is_not_there_is_asked_for_once(server, tmp_path):
    server.faults = [(404, {})]
    with pytest.raises(UserError, match=f"cannot download snapshot {server.url}: .*404 Not Found; check the address"):
        get(server, tmp_path)
    assert len(server.asked) == 1 and not left(tmp_path)


def test_redirections(server, tmp_path):
    server.faults = [(302, {"Location": "/elsewhere"})]
    assert get(server, tmp_path) == CONTENT
    (tmp_path / "x.pkl").unlink()
    server.faults = [(302, {"Location": "ftp://127.0.0.1/x"})]
    with pytest.raises(UserError, match="ftp"):
        get(server, tmp_path)


def test_an_empty_file_is_a_file(server, tmp_path):
    server.content = b""
    assert get(server, tmp_path) == b""


def test_many_at_once_download_once(server, tmp_path):
    server.faults = [HALF, (503, {})]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: get(server, tmp_path), range(4))) == [CONTENT] * 4
    assert len(server.asked) == 3


def test_without_locks_each_has_a_file_of_its_own(server, tmp_path, monkeypatch):
    @contextmanager
    def no_locks(path):
        raise OSError("no locks")
        yield

    monkeypatch.setattr(module, "locked", no_locks)
    (tmp_path / ".x.pkl.part").write_bytes(b"of another, still at work")
    server.faults = [1000] * 2
    with pytest.raises(UserError, match="bytes; try again later"):
        get(server, tmp_path, tries=2)
    download(server.url, tmp_path / "x.pkl", backoff=0)
    assert left(tmp_path) == [".x.pkl.part", "x.pkl"] and (tmp_path / "x.pkl").read_bytes() == CONTENT


def test_a_full_disk_keeps_nothing(server, tmp_path, monkeypatch):
    def full(partial):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module._Partial, "finish", full)
    with pytest.raises(UserError, match="No space left on device; download it by hand"):
        get(server, tmp_path)
    assert not left(tmp_path)


@pytest.mark.parametrize("rank", [0, 1])
def test_the_bar_is_the_main_process_s_and_for_long_downloads(server, tmp_path, monkeypatch, capsys, rank):
    bars = []
    monkeypatch.setattr(module, "progress_bar", lambda **options: bars.append(options) or progress_bar(**options))
    monkeypatch.setenv("RANK", str(rank))
    get(server, tmp_path)
    assert [bar["disable"] for bar in bars] == [rank == 1] and bars[0]["total"] == len(CONTENT)
    assert capsys.readouterr().err == ""


def test_fetch_keeps_it_in_the_cache(server, tmp_path, monkeypatch):
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path))
    first = files.fetch(server.url, "snapshot", backoff=0)
    assert first.parent == tmp_path / "downloads" and re.fullmatch(r"[0-9a-f]{16}-x\.pkl", first.name)
    assert first.read_bytes() == CONTENT and files.fetch(server.url) == first and len(server.asked) == 1
