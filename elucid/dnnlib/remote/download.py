"""Downloads by https with retries, resuming, limits and atomic writes; a copy keeps its hash beside it."""

import http.client
import os
import re
import secrets
import shutil
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from elucid.dnnlib.errors import UserError, clean
from elucid.dnnlib.locks import locked
from elucid.dnnlib.progress import progress_bar
from elucid.dnnlib.reading import limits
from elucid.dnnlib.reading.addresses import Unsafe, require_safe
from elucid.dnnlib.reading.kept import write_sum

_BLOCK = 1 << 16  # bytes between writes and updates of the progress bar
_PASSING = (429, 500, 502, 503, 504)  # temporary status codes, worth a retry
_LONGEST_WAIT = 60.0  # maximum seconds between two tries, even if the server asks for more
_MOST_REDIRECTS = 10
_SLOWEST = 1000  # bytes per second, below which a server is given up


def download(
    url: str,
    path: Path,
    what: str = "file",
    *,
    max_bytes: int | None = None,
    tries: int = 5,
    backoff: float = 0.5,
    timeout: tuple[float, float] = (10.0, 60.0),
    patience: float = 60.0,
) -> None:
    """Download an https URL to `path`, which must be unique to the URL; other processes wait for the first.

    Plain http needs ELUCID_ALLOW_HTTP=1, but for servers on this machine. An interrupted download is kept next to
    `path` and resumed, also by a later call, if the content on the server is unchanged; a file whose server does not
    say how long it is cannot be known to be whole, and is refused. The wait between tries starts at about `backoff`
    seconds and doubles each time; `timeout` holds the connect and read timeouts in seconds; `patience` is the time
    after which a server that sends less than 1 kB/s is given up. Raises UserError if the download fails or has more
    than `max_bytes`, by default ELUCID_MAX_DOWNLOAD_BYTES, 20 GB.
    """
    kept = False
    max_bytes = limits.DOWNLOAD_BYTES.value if max_bytes is None else max_bytes
    try:
        require_safe(url)
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            try:
                alone = stack.enter_context(locked(path.with_name(f".{path.stem}.lock")))
            except OSError:  # file system without locks
                alone = False
            if path.is_file():  # downloaded by the process that held the lock
                return
            partial = _Partial(path, alone)
            try:
                with _session(tries, backoff) as session:
                    _receive(_Source(session, url, timeout), partial, max_bytes, tries, backoff, patience)
                partial.finish()
            except BaseException as error:
                # Resuming does not help if the disk is full or the file too large, or if the name is not reused.
                passing = isinstance(error, (requests.RequestException, KeyboardInterrupt))
                kept = alone and passing and partial.continuable
                if not kept:
                    partial.remove()
                raise
    except _ERRORS as error:
        mend = f"{_mend(error, kept)}download it by hand and give its path"
        raise UserError(f"cannot download {what} {url}: {_reason(error)}; {mend}") from error


class _Unsuitable(requests.RequestException):
    """The server answers in a way with which no other try would help."""


class _Broken(requests.RequestException):
    """The response body ended early."""


class _Refused(requests.RequestException):
    """The server responded with an error status."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class _TooLarge(Exception):
    """The content exceeds the size limit."""


_ERRORS = (
    OSError,  # as exceptions of requests are
    ValueError,  # as is Unsafe
    http.client.HTTPException,
    urllib3.exceptions.HTTPError,
    _TooLarge,
)


class _Partial:
    """A partial download in a hidden file next to the destination, with the server's tag of the content."""

    def __init__(self, path: Path, alone: bool):
        # Without a lock, two processes must not write to the same file.
        name = path.name if alone else f"{path.name}.{secrets.token_hex(4)}"
        self.path = path
        self.file = path.with_name(f".{name}.part")
        self._tag = path.with_name(f".{name}.tag")

    @property
    def size(self) -> int:
        return self.file.stat().st_size if self.file.exists() else 0

    @property
    def tag(self) -> str:
        return self._tag.read_text(encoding="utf-8") if self._tag.exists() else ""

    @property
    def continuable(self) -> bool:
        return self.size > 0 and self.tag != ""

    def begin(self, tag: str) -> None:
        """Start over; the tag is written before the first byte, so that it always matches the content."""
        self.remove()
        if tag:
            self._tag.write_text(tag, encoding="utf-8")

    def finish(self) -> None:
        with open(self.file, "ab") as file:
            os.fsync(file.fileno())
        write_sum(self.path, self.file)
        os.replace(self.file, self.path)
        self.remove()

    def remove(self) -> None:
        self.file.unlink(missing_ok=True)
        self._tag.unlink(missing_ok=True)


class _Source:
    """A URL that can be requested completely or from an offset."""

    def __init__(self, session: requests.Session, url: str, timeout: tuple[float, float]):
        self._session, self._url, self._timeout = session, url, timeout
        self.name = clean(Path(urllib.parse.urlsplit(url).path).name[:80]) or "file"

    def open(self, partial: _Partial) -> requests.Response:
        """Request the rest of a partial download (206) or else the whole file (200); raises RequestException."""
        if partial.continuable:
            response = self._get({"Range": f"bytes={partial.size}-", "If-Range": partial.tag})
            if response.status_code == 206 and _continues(response, partial):
                return response
            if response.status_code not in (206, 416):  # it has changed, or the server does not support ranges
                return _whole(response)
            response.close()
        return _whole(self._get({}))

    def _get(self, headers: dict[str, str]) -> requests.Response:
        # Without compression, lengths and ranges refer to the bytes of the file.
        headers, url = {"Accept-Encoding": "identity", **headers}, self._url
        for _ in range(_MOST_REDIRECTS):
            response = self._session.get(
                url, headers=headers, stream=True, timeout=self._timeout, allow_redirects=False
            )
            if not response.is_redirect:
                return response
            response.close()
            url = require_safe(urllib.parse.urljoin(url, response.headers["Location"]), before=url)
        raise _Unsuitable(f"the server redirects more than {_MOST_REDIRECTS} times")


class _Retry(Retry):
    """urllib3's Retry with a limit on the Retry-After of the server."""

    def get_retry_after(self, response) -> float | None:
        seconds = super().get_retry_after(response)
        return None if seconds is None else min(seconds, _LONGEST_WAIT)


def _session(tries: int, backoff: float) -> requests.Session:
    retry = _Retry(total=tries - 1, backoff_factor=backoff, status_forcelist=_PASSING, raise_on_status=False)
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    return session


def _receive(source: _Source, partial: _Partial, max_bytes: int, tries: int, backoff: float, patience: float) -> None:
    """Download into `partial`. The session retries requests; this function retries interrupted bodies."""
    for attempt in range(tries):
        try:
            with source.open(partial) as response:
                return _receive_body(response, partial, max_bytes, source.name, patience)
        except _Broken:
            if attempt == tries - 1:
                raise
            time.sleep(min(backoff * 2**attempt, _LONGEST_WAIT))


def _receive_body(response: requests.Response, partial: _Partial, max_bytes: int, name: str, patience: float) -> None:
    if response.status_code == 200:
        partial.begin(_tag(response))
    size = partial.size
    total = _total(response, size)
    if total is not None and total > max_bytes:
        raise _TooLarge(f"it has {total} bytes, more than the limit of {max_bytes}")
    if total is None and response.headers.get("Transfer-Encoding", "").lower() != "chunked":
        raise _Unsuitable("the server does not say how long the file is, so a part could pass for the whole")
    room = shutil.disk_usage(partial.path.parent).free
    if total is not None and total - size > room:
        raise _TooLarge(f"it has {total} bytes, and {room} are free in {partial.path.parent}")
    # The rank from torchrun's environment, since this module does not import torch.
    hidden = int(os.environ.get("RANK", 0)) > 0
    bar = progress_bar(
        total=total, initial=size, desc=f"downloading {name}", unit="B", unit_scale=True, disable=hidden, delay=3
    )
    with bar, open(partial.file, "ab") as file:
        try:
            for block in _blocks(response, patience):
                size += len(block)
                if size > max_bytes:
                    raise _TooLarge(f"it has more than {max_bytes} bytes, the limit")
                file.write(block)
                bar.update(len(block))
        except urllib3.exceptions.HTTPError as error:
            raise _Broken(f"the connection broke after {_of(size, total)}") from error
    if total is not None and size != total:
        raise _Broken(f"the connection ended after {_of(size, total)}")


def _blocks(response: requests.Response, patience: float) -> Iterator[bytes]:
    """Yield the body as it arrives. Raises RequestException if it comes too slowly."""
    read = getattr(
        response.raw, "read1", response.raw.read
    )  # urllib3 2 has read1, which does not wait for a full block
    began, count = time.monotonic(), 0
    while block := read(_BLOCK, decode_content=False):
        yield block
        count += len(block)
        passed = time.monotonic() - began
        if passed > patience:
            if count < _SLOWEST * passed:
                raise _Unsuitable(f"the server sends {count / passed:.0f} bytes per second")
            began, count = time.monotonic(), 0


def _whole(response: requests.Response) -> requests.Response:
    if response.status_code != 200:
        response.close()
        answer = f"{response.status_code} {response.reason or ''}".rstrip()
        raise _Refused(f"the server answers {answer}", response.status_code)
    return response


def _tag(response: requests.Response) -> str:
    """Return the value for If-Range: a strong ETag, or else Last-Modified, or an empty string."""
    etag = response.headers.get("ETag", "")
    return etag if etag.startswith('"') else response.headers.get("Last-Modified", "")


def _continues(response: requests.Response, partial: _Partial) -> bool:
    """Return whether the response continues the same content; some servers ignore If-Range."""
    start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return start is not None and int(start[1]) == partial.size and _tag(response) in ("", partial.tag)


def _total(response: requests.Response, start: int) -> int | None:
    """Return the size of the whole file in bytes, if the server reports it."""
    whole = re.search(r"/(\d+)$", response.headers.get("Content-Range", ""))
    if whole and response.status_code == 206:
        return int(whole[1])
    length = response.headers.get("Content-Length", "")
    return (
        start + int(length)
        if length.isdecimal() and len(length) < 19 and "Transfer-Encoding" not in response.headers
        else None
    )


def _of(size: int, total: int | None) -> str:
    return f"{size} bytes" if total is None else f"{size} of {total} bytes"


def _mend(error: BaseException, kept: bool) -> str:
    """Return advice for the error message."""
    if isinstance(error, Unsafe):
        return ""
    if isinstance(error, _Unsuitable) or (isinstance(error, _Refused) and error.status not in _PASSING):
        return "check the address, or "
    if kept:
        return "try again to resume the download, or "
    return "try again later, or " if isinstance(error, requests.RequestException) else ""


def _reason(error: BaseException) -> str:
    """Return the root cause, since the libraries' own messages repeat the URL and class names."""
    if not isinstance(error, (_Broken, _Refused, Unsafe, _Unsuitable, _TooLarge)):
        while cause := error.__cause__ or error.__context__:
            error = cause
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
