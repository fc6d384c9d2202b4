"""Each way by which a file enters the program is in one place, where its limits are."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "elucid"
ENTRANCES = {
    r"\bImage\.open\(": {"training/data/pictures.py"},  # with a list of formats, since EPS starts Ghostscript
    r"(?<!library\.)\btorch\.load\(": {  # which look first; safetensors has one of its own
        "torch_utils/guards/torch_files.py", "torch_utils/pickled.py",
    },
    r"\bnp\.load\(": {
        "metrics/reference.py", "training/data/cache.py", "training/data/index/table.py",
        "training/inverse/operators/files.py",  # of bytes that were read within the limit of a file
    },
    r"\bpickle\.(load|loads|Unpickler)\(": set(),
    r"\blmdb\.open\(": {"preparation/lmdb_file.py", "preparation/sources.py"},
    r"\btarfile\.open\(": {"preparation/arrays.py", "preparation/shards.py", "training/data/streaming/tar.py"},
    r"\bgzip\.(open|GzipFile)\(": {"dnnlib/reading/streams.py"},
    r"\bextractall\(|\bshell=True|\bos\.system\(|\beval\(|\bexec\(": set(),
    r"\bimport_module\(": {  # names from our tables, from the command line, or of trusted plug-ins
        "__init__.py", "start.py", "commands/main.py", "dnnlib/config.py", "dnnlib/plugins.py",
    },
}  # fmt: skip


@pytest.mark.parametrize("pattern", ENTRANCES)
def test_files_enter_in_known_places(pattern):
    found = {}
    for path in ROOT.rglob("*.py"):
        code = re.sub(r'"""[\s\S]*?"""|#.*|`[^`]*`', "", path.read_text(encoding="utf-8"))
        if re.search(pattern, re.sub(r"\.eval\(", "", code)):
            found[path.relative_to(ROOT).as_posix()] = True
    assert found.keys() <= ENTRANCES[pattern], "read it through the module that has the limits"
