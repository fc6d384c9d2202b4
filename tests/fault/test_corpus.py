"""A few hostile files of each kind, by the commands in this process; `run_corpus.py` takes all, in their own."""

from itertools import islice

import pytest

from elucid.dnnlib import errors
from tests import scripts
from tests.fault.hostile import arrays, pickles, pictures, torch_files, transformers
from tests.fault.hostile.commands import calls
from tests.fault.hostile.kit import Kit


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    return Kit(tmp_path_factory.mktemp("hostile") / "kit")


@pytest.fixture
def refuse(kit, tmp_path, monkeypatch, capsys):
    """Pass a case to the commands that read it."""
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(errors, "_noted", set())

    def refuse(case, most: int = 9) -> None:
        for script, arguments in islice(calls(case.kind, case.path, kit, tmp_path / "out"), most):
            code, out, err = scripts.call(monkeypatch, capsys, f"{script}.py", *arguments)
            text, lines = out + err, [line for line in err.splitlines() if line.startswith("error: ")]
            what = f"{case.name}, {script}: {code}\n{text}"
            assert not kit.canary.exists(), what
            assert "Traceback" not in text, what
            assert (code == 2 and len(lines) == 1) or (code == 0 and script in case.accepted), what
            assert all(line.isprintable() for line in lines), what

    return refuse


def some(cases, names):
    """The cases with these names, made until all are there."""
    wanted, found = set(names), []
    for case in cases:
        if case.name in wanted:
            found.append(case)
            wanted.discard(case.name)
        if not wanted:
            return found
    raise AssertionError(f"there are no cases {wanted}")


def test_snapshots(kit, refuse):
    names = (
        "cut-3 flip-2 flip-9 system-2 eval-inside network-num_blocks-0 network-channel_mult-0 version-5 nan escapes "
    )
    names += "edm2-num_blocks-1 edm2-img_channels-2 edm2-resample_filter-0 edm2-encoder"
    for case in some(pickles.cases(kit), [*names.split(), "options-deep", "options-doubling"]):
        refuse(case, 1)


def test_states(kit, refuse):
    names = "cut-1 flip-4 version-1 options-7 options-9 nimg-3 network.num_blocks-0 code-loss code-hooks"
    for case in some(torch_files.states(kit), [*names.split(), "code-reader", "objective-nan", "ema-infinity"]):
        refuse(case)


def test_transformers(kit, refuse):
    for case in transformers.cases(kit):
        refuse(case)


def test_references(kit, refuse):
    names = "flip-3 mu-0 num_images-1 detector-2 objects huge-shape"
    for case in some(arrays.references(kit), names.split()):
        refuse(case)


def test_classic_sources(kit, refuse):
    for case in some(arrays.sources(kit), ["idx-short", "idx-huge", "idx-zero"]):
        refuse(case)
    for case in some(arrays.databases(kit), ["lmdb-cut-5", "lmdb-text"]):
        refuse(case)
    for case in some(arrays.latents(kit), ["cut", "flip", "header", "scale"]):
        refuse(case, 1)


def test_pictures_in_zips_and_folders(kit, refuse):
    good = (kit.pictures / "0.png").read_bytes()
    for case in some(pictures.zips(kit, good), ["zip-parent", "zip-link", "zip-cut", "zip-twice", "zip-overlapping"]):
        refuse(case, 1)
    for case in some(pictures.folders(kit, good), ["pipe-only", "link-zero", "pipe-beside", "sparse", "names"]):
        refuse(case, 1)
    for case in some(pictures.descriptions(kit, good), ["json-deep", "json-big", "json-surrogate", "json-encoder"]):
        refuse(case, 2 if "big" in case.name else 1)
