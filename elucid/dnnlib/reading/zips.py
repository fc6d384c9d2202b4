"""Lists the entries of a zip from a stranger, or refuses it."""

import re
import stat
import zipfile
from pathlib import Path

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.reading import limits
from elucid.dnnlib.reading.regular import is_hidden

_ENTRY = 46  # bytes of an entry in the directory of a zip, besides its name
_DRIVE = re.compile(r"[A-Za-z]:")


def zip_members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """Return the files of a zip by name with forward slashes, without hidden ones.

    Raises UserError for what is not a whole zip, and for names that are absolute, lead outside (`..`) or come twice,
    links, and sizes that the archive cannot hold.
    """
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, OverflowError, MemoryError) as error:
        raise UserError(f"{path} is not a valid or complete zip ({error}); copy or download it again") from error
    limits.ENTRIES.require(len(infos), f"{path}: its number of files")
    if sum(info.compress_size for info in infos) > size:
        raise UserError(f"{path} has entries that overlap or exceed it, so it is damaged or a bomb; get it again")
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename.replace("\\", "/")
        _require_harmless(path, name, info)
        name = name.removeprefix("./")
        if info.is_dir() or any(is_hidden(part) for part in name.split("/")):
            continue
        if name in found:
            raise UserError(f"{path} has two entries {name}; make the zip again with one of them")
        found[name] = info
    expanded = sum(info.file_size for info in found.values())
    limits.require_ratio(expanded, size, f"{path}")
    return found


def _require_harmless(path: Path, name: str, info: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == 3 else 0
    if name.startswith("/") or _DRIVE.match(name) or ".." in name.split("/"):
        raise UserError(f"{path} has the entry {name}, which leads outside; make the zip again without it")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UserError(f"{path} has the entry {name}, a link or device; make the zip again with files only")
    if not info.is_dir():
        limits.require_ratio(info.file_size, info.compress_size, f"{path}/{name}")
