"""The readers of large directories and descriptions, entry by entry, find what the general ones find."""

import json
import random
import zipfile

import numpy as np
import pytest

from elucid.dnnlib.errors import UserError
from elucid.training.data import archives
from elucid.training.data.index import descriptions
from elucid.training.data.index.names import Items, Names
from elucid.training.data.index.zip_table import count_entries, zip_table
from elucid.training.data.labels import from_json


def columns(files) -> list:
    return [list(files.names), *(one.tolist() for one in files[1:])]


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("limit", [None, 0, 300])  # of what fits into 4 bytes: none are 64 bit, all, those further back
@pytest.mark.parametrize("extra", [b"", b"UT\5\0\1\0\0\0\0", b"ux\0\0" * 3])
def test_the_directory_is_read_as_by_zipfile(tmp_path, monkeypatch, shuffled, limit, extra):
    names = [f"{index % 7:02}/imgé{index:04}.png" for index in range(300)] + ["dataset.json", "ä", "z/"]
    if shuffled:
        random.Random(0).shuffle(names)
    if limit is not None:
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", limit)
    path = tmp_path / "s.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.extra = extra
            archive.writestr(info, name.encode() * 5 if name[-1] != "/" else b"")
    monkeypatch.undo()
    table = zip_table(path)
    assert table is not None and columns(table) == columns(archives.ZipColumns.of(path)) and count_entries(path) == 303
    assert [one.dtype for one in table[1:]] == [one.dtype for one in archives.ZipColumns.of(path)[1:]]


BAD_LABELS = [
    ([["a.png", -1], ["b.png", 0]], {}),
    ([["a.png", 5], ["b.png", 0]], {"class_names": ["x", "y"]}),
    ([["a.png", 10**12], ["b.png", 0]], {}),
    ([["a.png", 0], ["b.png", 0], ["gone.png", 1]], {}),
    ([["a.png", 0], ["b.png", True]], {}),
    ([["a.png", 0], ["b.png", "cat"]], {}),
    ([["a.png", [1, 2]], ["b.png", [1]]], {}),
    ([["a.png", [float("nan")]], ["b.png", [1]]], {}),
    ([["a.png", 0], ["a.png", 1]], {}),
    ([["a.png", 0], ["a.png", 0]], {}),
    ([["a.png", 0.5], ["b.png", 0]], {}),
    ([["a.png", None], ["b.png", None]], {}),
    ([["a.png"]], {}),
    ({"a.png": 0}, {}),
    ([], {}),
    (0, {}),
    ("x", {}),
    ([["a.png", 0], ["b.png", 0]], {"class_names": "xy"}),
    ([["a.png", 0], ["b.png", 3]], {"class_names": ["x", "y"]}),
]
TEXTS = [
    b"{",
    b"[]",
    b"",
    b"{}",
    b'{"labels": [["a.png", 0], ["b.png", 1]',
    b'{"labels": [["a.png", 0],]}',
    b"\xff\xfe{",
]
TEXTS += [b'{"labels": [["a.png", 0]], "labels": [["b.png", 0]]}', b'{"labels": [["\\ud800", 0]]} ', b"\xef\xbb\xbf{}"]
TEXTS += [b' {\n"labels" :\t[ ["\\u0061.png" , 1 ] ,\r\n["b.png",0] ] , "x":{"y":[1,2]}}\n', b'{"x": 1} x', b"[" * 2000]
TEXTS += [b'{"x": ' + b"[" * 2000 + b"]" * 2000 + b', "labels": [["a.png", 0]]}', json.dumps({}).encode("utf-16")]
TEXTS += [b'{"x": %s%s, "labels": [["a.png", 0]]}' % (b"[" * depth, b"]" * depth) for depth in (98, 99, 100)]


@pytest.mark.parametrize("at_once", [1, 2, 1 << 16])
def test_descriptions_are_read_as_in_one_piece(monkeypatch, at_once):
    monkeypatch.setattr(descriptions, "_AT_ONCE", at_once)
    images = ["a.png", "b.png", "c.png"]
    items = Items(Names.of(images), np.arange(3))
    texts = [json.dumps({"labels": pairs} | extra).encode() for pairs, extra in BAD_LABELS]
    texts += [json.dumps(extra | {"labels": pairs}).encode() for pairs, extra in BAD_LABELS]

    def read(reader, names, text):
        try:
            found = reader(text, names, "dataset.json", 3)
            return None if found is None else repr((found.values.tolist(), found.class_names, found.dim))
        except UserError as error:
            return str(error)

    for text in texts + TEXTS:
        expected = read(from_json, images, text)
        assert read(descriptions.large_labels, items, text) == expected, text
    assert sum((read(from_json, images, text) or "").startswith("([") for text in texts + TEXTS) > 5


def test_names_are_found_and_sorted_as_texts():
    names = sorted(["a", "a/b", "b", "é", "日", "\U0001f600", "\ud800", "\udcff", "aa", "", "\uffff"])
    packed = Names.of(names)
    assert list(packed) == names and packed[-1] == names[-1] and packed[2:5] == names[2:5]
    assert [packed.index(name) for name in names] == list(range(len(names)))
    assert "c" not in packed and "a/" not in packed and packed.inside("a") == (1, 4)
    part = packed.part(1, 4, skip=1)
    assert list(part) == ["", "/b", "a"] == list(part.packed()) and part.index("a") == 2
    with pytest.raises(IndexError):
        packed[len(names)]
