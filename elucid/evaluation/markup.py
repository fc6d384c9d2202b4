"""Writes HTML and SVG elements; all text is escaped, so that names and options of runs cannot become markup."""

import html
import re
from collections.abc import Iterable
from typing import Any

_VOID = frozenset(("meta", "input", "img", "br", "hr"))
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Markup(str):
    """Text that is markup already, and is not escaped again."""


def escaped(text: str) -> Markup:
    """Escape text for elements and quoted attributes; characters that XML forbids become U+FFFD."""
    return Markup(html.escape(_NOT_XML.sub("\ufffd", text)))


def element(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """Return `<name attributes>children</name>`, as HTML and XML read it.

    Children are text, numbers, markup, or iterables of these; None is left out. `class_` and `aria_label` are written
    `class` and `aria-label`; attributes that are None or False are left out, True stands for an empty value.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{"" if value is True else escaped(str(value))}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Markup(f"<{name}{written} />")
    return Markup(f"<{name}{written}>{joined(children)}</{name}>")


def joined(children: Iterable[Any]) -> Markup:
    """Return children one after the other."""
    return Markup("".join(_child(child) for child in children))


def _child(child: Any) -> str:
    if child is None:
        return ""
    if isinstance(child, Markup):
        return child
    if isinstance(child, str | int | float):
        return escaped(str(child))
    return joined(child)
