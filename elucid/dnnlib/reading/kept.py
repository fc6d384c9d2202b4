"""Hashes of downloads that are kept, in a hidden file beside each."""

from pathlib import Path

from elucid.dnnlib.errors import note
from elucid.dnnlib.files import sha256


def sum_of(path: Path) -> Path:
    """Return the file with the hash of a download."""
    return path.with_name(f".{path.name}.sha256")


def write_sum(path: Path, content: Path) -> None:
    """Note hash and size of a download that will be, or is, at `path`."""
    sum_of(path).write_text(f"{sha256(content)} {content.stat().st_size}\n", encoding="utf-8")


def is_intact(path: Path) -> bool:
    """Return whether a download is as it was when it arrived; one by an older version is accepted with a note."""
    if not sum_of(path).is_file():
        note(f"{path} was downloaded by an older version, which kept no hash; it is taken as it is")
        write_sum(path, path)
        return True
    said = sum_of(path).read_text(encoding="utf-8", errors="replace").split()
    return said == [sha256(path), str(path.stat().st_size)]
