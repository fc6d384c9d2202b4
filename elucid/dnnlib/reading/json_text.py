"""Parses JSON from a file without filling the memory, whatever is in it."""

import json
import os
import re
from typing import Any

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import limits
from elucid.dnnlib.reading.regular import read_regular

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(text: bytes | str, where: str, files: int = 0) -> Any:
    """Return the content of a JSON text. `where` names it in messages; `files` of a data set raise the limits.

    Raises UserError for what is not valid JSON or UTF-8, too large, nested too deeply, or has lone surrogates.
    """
    text = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    require_small(text, where, files)
    try:
        content = json.loads(text)
        if has_surrogates(text):
            json.dumps(content, ensure_ascii=False).encode()
        require_shallow(content)
        return content
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply; fix or remove it") from error
    except UnicodeEncodeError as error:
        raise UserError(f"{where} has half a character (a lone surrogate); fix or remove it") from error
    except (UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{where} is not valid JSON ({error}); fix or remove it") from error


def has_surrogates(text: bytes) -> bool:
    """Return whether a JSON text writes surrogates, of which one may be alone."""
    return _SURROGATE.search(text) is not None


def largest(files: int) -> int:
    """Return how many bytes a JSON text may have that describes a data set of so many files."""
    return limits.JSON_BYTES.value + 1000 * files


def require_small(text: bytes, where: str, files: int = 0) -> None:
    """Raise UserError if a JSON text, of a data set of so many files, has too many bytes, lists or objects."""
    most, items = largest(files), limits.ITEMS.value + 4 * files
    if len(text) > most:
        raise limits.JSON_BYTES.error(f"{where} has {len(text)} bytes")
    if (count := text.count(b"[") + text.count(b"{")) > items:  # each takes much more memory than text
        raise limits.ITEMS.error(f"{where} has {count} lists and objects")


def read_json(path: str | os.PathLike) -> Any:
    """Return the content of a JSON file. Raises UserError naming it if it is missing, no regular file, or not valid."""
    try:
        text = read_regular(os.fspath(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    return parse_json(text, os.fspath(path))


def require_shallow(content: Any) -> None:
    """Raise RecursionError if the content is nested so deeply that code which walks it could overflow the stack."""
    layer = [content] if isinstance(content, (dict, list)) else []
    for _ in range(limits.DEEPEST):
        items = (item for node in layer for item in (node.values() if isinstance(node, dict) else node))
        layer = [item for item in items if isinstance(item, (dict, list))]
        if not layer:
            return
    raise RecursionError
