"""Reads files from an object store, a web server or a hub, through fsspec; tries again when that fails."""

import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading.addresses import Unsafe, require_safe
from elucid.dnnlib.remote.hub import SCHEME, parsed

TRIES = 7
BACKOFF = 0.5
"""Seconds before the second try, doubled at each further one, and up to as much again by chance."""
TIMEOUT = 60.0
"""Seconds after which a web server that sends nothing is given up."""
_CHANCE = random.SystemRandom()  # training must not notice, whose own generators states keep
_BLOCK = 1 << 20
_RANGE = 8 << 20  # bytes that are asked for at a time where a file is read in ranges
_PASSING = (408, 425, 429)  # of the status codes 4xx, those that another try may mend


class Store:
    """The files below an address such as `s3://bucket/folder`, `https://host/folder` or `hf://user/name/folder`.

    Raises UserError for an address that is unknown, or for which a package is missing.
    """

    def __init__(self, address: str):
        self.address = address.rstrip("/")
        self._fs, self._root, self._streamed = _file_system(self.address)

    def label_of(self, name: str) -> str:
        """Return the address of a file."""
        return f"{self.address}/{name}"

    def blocks(self, name: str, size: int | None) -> Iterator[bytes]:
        """Yield the content of a file in parts. Raises whatever the library does."""
        how: dict[str, Any] = {"block_size": 0} if self._streamed else {"block_size": _RANGE, "cache_type": "readahead"}
        if size is not None and self._streamed:
            how["size"] = size  # spares a request
        with self._fs.open(f"{self._root}/{name}", "rb", **how) as file:
            while block := file.read(_BLOCK):
                yield block

    def read(self, name: str, most: int) -> bytes:
        """Return the content of a file of at most so many bytes. Raises UserError naming it after several tries."""

        def whole() -> bytes:
            data = bytearray()
            for block in self.blocks(name, None):
                data += block
                if len(data) > most:
                    raise UserError(f"{self.label_of(name)} has more than {most} bytes; check the address")
            return bytes(data)

        return self.tried(name, whole)

    def tried(self, name: str, action: Callable[[], Any]) -> Any:
        """Return what `action` does, which reads a file; tried again after failures that may pass.

        Raises UserError naming the file.
        """
        for attempt in range(TRIES):
            try:
                return action()
            except (UserError, LocalError):
                raise
            except Exception as error:  # noqa: BLE001  each library behind fsspec fails in its own ways
                if _is_final(error) or attempt == TRIES - 1:
                    often = "" if _is_final(error) else f" after {TRIES} tries"
                    raise UserError(
                        f"{self.label_of(name)} cannot be read{often}: {_reason(error)}; {_mend(error)}"
                    ) from error
            time.sleep(BACKOFF * 2**attempt * (1 + _CHANCE.random()))


class LocalError(OSError):
    """Writing to this machine's disk has failed, which no other try would mend."""


def _file_system(address: str) -> tuple[Any, str, bool]:
    """Return the file system of an address, the path in it, and whether files are streamed, not read in ranges."""
    protocol, separator, rest = address.partition("://")
    if not (protocol and separator and rest):
        raise UserError(f"{address} is no address of a store, such as s3://bucket/folder; check it")
    try:
        import fsspec

        if protocol.lower() in ("http", "https"):
            require_safe(address)
            import aiohttp

            patient = aiohttp.ClientTimeout(total=None, connect=TIMEOUT, sock_read=TIMEOUT)
            return (
                fsspec.filesystem(protocol.lower(), client_kwargs={"timeout": patient, "trust_env": True}),
                address,
                True,
            )
        if address.startswith(SCHEME):
            repository, revision, folder = parsed(address)
            at = f"@{revision}" if revision else ""
            return fsspec.filesystem("hf"), f"datasets/{repository}{at}/{folder}".rstrip("/"), True
        found, root = fsspec.core.url_to_fs(address)
        return found, root.rstrip("/"), False
    except ImportError as error:
        raise UserError(
            f"{address} needs a package that is not installed ({error}); pip install 'elucid[streaming]' has those for "
            "http(s):// and s3://, and 'elucid[hub]' that for hf://"
        ) from error
    except Unsafe as error:
        raise UserError(f"{address}: {error}") from error
    except (ValueError, TypeError, OSError) as error:
        raise UserError(f"{address} is no address that can be read from: {_reason(error)}; check it") from error


def _status(error: BaseException) -> int | None:
    """Return the status code of a web server's answer, if the error is one."""
    status = getattr(error, "status", None) or getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _is_final(error: BaseException) -> bool:
    """Return whether no other try would help: the file is missing, or it is not for us."""
    status = _status(error)
    if status is not None:
        return 400 <= status < 500 and status not in _PASSING
    named = type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound")
    return named or isinstance(error, (FileNotFoundError, PermissionError, ImportError))


def _reason(error: BaseException) -> str:
    """Return what has happened, in one line."""
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    if _status(error) is not None:
        return f"the server answers {_status(error)}"
    text = os.strerror(error.errno) if isinstance(error, OSError) and error.errno and error.errno > 0 else str(error)
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)


def _mend(error: BaseException) -> str:
    """Return advice."""
    if isinstance(error, FileNotFoundError) or _status(error) == 404:
        return "check the address, and that all shards were copied"
    if isinstance(error, PermissionError) or _status(error) in (401, 403) or "Credentials" in type(error).__name__:
        return "check the credentials of the store"
    return "check the connection, and go on with `resume`"
