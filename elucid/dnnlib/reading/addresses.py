"""Which addresses may be downloaded from."""

import ipaddress
import os
import re
import urllib.parse

HTTP = "ELUCID_ALLOW_HTTP"
"""Environment variable: 1 allows plain http, which anyone on the way may read and change."""


class Unsafe(ValueError):
    """The address, or one to which it redirects, is malformed or not safe."""


def require_safe(url: str, before: str = "") -> str:
    """Return the URL. Raises Unsafe if it is malformed, no https, or less safe than the one `before` it."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, scheme = parts.hostname or "", parts.scheme
        good = bool(host) and parts.port != 0 and not re.search(r"[\s\x00-\x1f\x7f]", url) and len(url) <= 8000
    except ValueError as error:
        raise Unsafe(f"it is no address ({error})") from error
    if scheme not in ("http", "https"):
        raise Unsafe(f"it leads to {scheme or 'nothing'}://, not to https" if before else "it is no https address")
    if not good:
        raise Unsafe("it is no address")
    if scheme == "http" and before.lower().startswith("https:"):
        raise Unsafe("the server redirects from https to plain http")
    if scheme == "http" and not _is_local(host) and os.environ.get(HTTP, "0") in ("", "0"):
        raise Unsafe(f"plain http can be read and changed on the way; use https, or set {HTTP}=1")
    return url


def _is_local(host: str) -> bool:
    """Return whether a server runs on this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
