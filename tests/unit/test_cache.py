"""The decoded data sets that are kept: bounded, those unused longest go first, what a live process uses stays."""

import io
import multiprocessing
import os
import pickle
import signal
import warnings
import zipfile

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from elucid.commands import dataset_tool
from elucid.dnnlib.errors import UserError
from elucid.training.data import cache_entries
from elucid.training.data.cache import CachedDataset, cached
from elucid.training.data.dataset import open_dataset

BYTES = 4 * 64 * 64 + 128  # of an entry: four gray images, and the header of a .npy


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of entries in a cache that has room for three."""
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ELUCID_CACHE_GB", str(3.5 * BYTES / 1e9))
    return tmp_path / "cache/datasets"


@pytest.fixture
def keep(tmp_path, folder):
    """Open a data set by its name, and keep it decoded; `age` seconds ago."""

    def keep(name: str, age: float = 0, count: int = 4):
        path = tmp_path / f"{name}.zip"
        if not path.exists():
            buffer = io.BytesIO()
            Image.fromarray(np.full((64, 64), ord(name[0]), dtype=np.uint8)).save(buffer, "PNG")
            with zipfile.ZipFile(path, "w") as archive:
                for index in range(count):
                    archive.writestr(f"{index}.png", buffer.getvalue())
        dataset = cached(open_dataset(path), progress=False)
        if age:
            file = dataset.cache_file
            del dataset
            past = cache_entries.lock_of(file).stat().st_mtime - age
            os.utime(cache_entries.lock_of(file), (past, past))
            return file
        return dataset

    return keep


def names(folder) -> list[str]:
    """What is kept, by the names of the data sets."""
    return sorted(path.name.split("-")[0] for path in folder.glob("*.npy"))


def test_those_unused_longest_go_first(keep, folder):
    for name, age in (("a", 30), ("b", 50), ("c", 40)):
        keep(name, age)
    keep("d", 20)
    assert names(folder) == ["a", "c", "d"]
    keep("c", 10)  # used again: it is no longer the oldest
    keep("e", 5)
    assert names(folder) == ["c", "d", "e"]
    assert sorted(path.stem for path in folder.glob("?-*.lock")) == sorted(path.stem for path in folder.glob("*.npy"))
    assert sum(path.stat().st_size for path in folder.glob("*.npy")) <= cache_entries.limit()


def test_an_entry_in_use_stays(keep, folder):
    used = keep("a")
    os.utime(cache_entries.lock_of(used.cache_file), (0, 0))
    for name, age in (("b", 30), ("c", 20)):
        keep(name, age)
    keep("d", 10)
    assert names(folder) == ["a", "c", "d"]
    assert [entry.name[0] for entry in cache_entries.clear(folder)] == ["c", "d"] and names(folder) == ["a"]
    copy = pickle.loads(pickle.dumps(used))
    del used
    assert not cache_entries.clear(folder) and copy.array[0, 0, 0, 0] == ord("a"), "a copy claims it, too"
    del copy
    assert cache_entries.clear(folder) and sorted(path.name for path in folder.iterdir()) == ["room.lock"]


def test_the_end_of_use_is_the_last_use(keep, folder):
    used = keep("a")
    lock = cache_entries.lock_of(used.cache_file)
    os.utime(lock, (0, 0))
    del used
    assert lock.stat().st_mtime > 0


def _hold(path, ready):
    dataset = cached(open_dataset(path), progress=False)
    ready.set()
    signal.pause()
    del dataset


def test_a_process_claims_an_entry_until_it_is_killed(keep, folder, tmp_path):
    keep("a", age=10)
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=_hold, args=(tmp_path / "a.zip", ready))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forking beside torch's threads
        process.start()
    try:
        assert ready.wait(20)
        assert cache_entries.entries(folder)[0].in_use and not cache_entries.clear(folder)
    finally:
        process.kill()
        process.join()
    assert not cache_entries.entries(folder)[0].in_use and len(cache_entries.clear(folder)) == 1


def test_where_all_are_in_use_or_it_is_too_large_nothing_is_removed(keep, folder):
    used = [keep(name) for name in "abc"]
    with pytest.warns(UserWarning, match="not cached.*leaves besides entries in use; raise that number"):
        assert not isinstance(keep("d"), CachedDataset)
    assert names(folder) == ["a", "b", "c"]
    del used
    with pytest.warns(UserWarning, match="not cached.*more than ELUCID_CACHE_GB=.* allows; raise that number"):
        large = keep("e", count=16)
    assert large.image(3)[0, 0, 0] == ord("e") and names(folder) == ["a", "b", "c"]


def test_leftovers_of_killed_processes_go_and_other_files_stay(keep, folder):
    finished = keep("a", age=10)
    left, building = folder / f"b-{'0' * 32}.tmp.npy", folder / f"c-{'1' * 32}.tmp.npy"
    others = [folder / "mine.npy", folder / "mine.tmp.npy", folder / "mine.lock"]
    for file in (left, left.with_name(f"b-{'0' * 32}.lock"), building, *others):
        file.write_bytes(b"x")
    with cache_entries.locked(cache_entries.lock_of(building)):
        keep("d", age=5)
        assert not left.exists() and not cache_entries.lock_of(left).exists() and building.exists()
        cache_entries.clear(folder)
        assert building.exists() and not finished.exists()
    cache_entries.clear(folder)
    assert sorted(folder.iterdir()) == sorted([*others, folder / "room.lock"])


def test_what_another_process_builds_takes_room(keep, folder):
    keep("a", age=10)
    building = folder / f"b-{'0' * 32}.tmp.npy"
    building.write_bytes(bytes(2 * BYTES))
    with cache_entries.locked(cache_entries.lock_of(building)):
        keep("c", age=5)
        assert names(folder) == ["b", "c"]


def test_a_removed_lock_file_locks_nobody_out_and_two_in(tmp_path):
    path = tmp_path / "a.lock"
    with cache_entries.locked(path) as first:
        assert first
        path.unlink()
        with cache_entries.locked(path, wait=False) as second, cache_entries.locked(path, wait=False) as third:
            assert second and not third


@pytest.mark.parametrize("text", ["much", "-1", "nan"])
def test_a_limit_that_is_no_number_is_named(text, keep, monkeypatch):
    monkeypatch.setenv("ELUCID_CACHE_GB", text)
    with pytest.raises(UserError, match=f"ELUCID_CACHE_GB={text} "):
        keep("a")


def test_the_command_lists_and_clears(keep, folder):
    assert ": 0 datasets" in CliRunner().invoke(dataset_tool.main, ["cache"]).output
    keep("a", age=86400 * 2)
    used = keep("b")
    lines = CliRunner().invoke(dataset_tool.main, ["cache"]).output.splitlines()
    assert f"{folder}: 2 datasets, 0.00 of at most" in lines[0]
    assert lines[1].split()[1:] == ["0.0", "MB", "in", "use"] and lines[2].split()[0].startswith("a-")
    result = CliRunner().invoke(dataset_tool.main, ["cache", "--clear"])
    assert result.exit_code == 0 and "removed: 1 datasets" in result.output and names(folder) == ["b"]
    assert used.image(0)[0, 0, 0] == ord("b")
