"""Opens shards that lie in a folder, or in a store, from which they are kept in the cache of this machine."""

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.locks import locked
from elucid.dnnlib.reading.json_text import largest
from elucid.dnnlib.reading.regular import read_regular
from elucid.dnnlib.remote.hub import is_hub
from elucid.training.data import cache_entries
from elucid.training.data.archives import readable
from elucid.training.data.streaming.description import FILE, MOST, Description
from elucid.training.data.streaming.stores import LocalError, Store
from elucid.training.data.streaming.tar import Damaged, OpenShard


def is_sharded(path: str | os.PathLike) -> bool:
    """Return whether a path or address is that of shards: a folder with `shards.json`, or one in a store.

    Of a hub, which has other datasets as well, it must name `shards.json`.
    """
    text = str(path)
    if f"/{text}".rstrip("/").endswith(f"/{FILE}"):
        return True
    return not is_hub(text) and (is_remote(text) or (Path(text) / FILE).is_file())


def is_remote(path: str) -> bool:
    """Return whether a path is an address in a store, not one on this machine."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", path) is not None


class ShardSource(ABC):
    """Where shards come from; `description` says what they are."""

    path: str
    description: Description

    def __init__(self):
        self._checked: dict[int, tuple[int, int]] = {}

    @abstractmethod
    def open(self, number: int) -> OpenShard:
        """Open a shard. Raises UserError naming it if it is missing or damaged, NoRoom if the cache cannot hold it."""

    def _opened_file(self, path: Path, number: int, use: Any = None, fresh: bool = False) -> OpenShard:
        """Open a file that should be a shard, whose hash is taken once, and not if it is `fresh`. Raises Damaged."""
        shard, status = self.description.shards[number], os.stat(path)
        found = status.st_ino, status.st_mtime_ns
        checked = fresh or self._checked.get(number) == found
        opened = OpenShard(path, shard.samples, shard.bytes, None if checked else shard.sha256, use)
        self._checked[number] = found
        return opened


def open_source(path: str | os.PathLike) -> ShardSource:
    """Open a folder with shards, or an address in a store. Raises UserError."""
    place = f"./{path}".rstrip("/") if str(path) == FILE else str(path).rstrip("/")
    place = place.removesuffix(f"/{FILE}")
    return StoredShards(place) if is_remote(place) else LocalShards(Path(place))


class LocalShards(ShardSource):
    """Shards in a folder of this machine, which are read where they are."""

    def __init__(self, folder: Path):
        super().__init__()
        self.path = str(folder)
        where = folder / FILE
        with readable(where):
            self.description = Description.from_json(read_regular(str(where), allowed=largest(MOST)), str(where))

    def open(self, number: int) -> OpenShard:
        path = Path(self.path) / self.description.shards[number].name
        try:
            return self._opened_file(path, number)
        except Damaged as error:
            raise UserError(f"{path} is damaged: {error}; copy it again") from error
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}; copy it again") from error


class StoredShards(ShardSource):
    """Shards in a store. Each is fetched by one of this machine's processes, and kept in its cache while there is room.

    An entry of the cache is named by the hash of its content, so that it is never that of another dataset.
    """

    def __init__(self, address: str):
        super().__init__()
        self.path = address
        self._store = Store(address)
        self.description = Description.from_json(self._store.read(FILE, largest(MOST)), self._store.label_of(FILE))
        self._folder = cache_entries.datasets_folder()
        self._name = re.sub(r"[^\w.-]+", "_", address.rpartition("/")[2])[:80] or "shards"
        with _own_disk(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)

    def open(self, number: int) -> OpenShard:
        shard = self.description.shards[number]
        stem = shard.name.removesuffix(cache_entries.SHARD)[:80]
        file = self._folder / f"{self._name}.{stem}-{shard.sha256[:32]}{cache_entries.SHARD}"
        with _own_disk(self._folder), locked(cache_entries.lock_of(file)):
            try:
                opened = self._opened_file(file, number, cache_entries.Use(file))
            except (FileNotFoundError, Damaged):
                file.unlink(missing_ok=True)
                self._fetch(file, number)
                opened = self._opened_fresh(file, number)
            cache_entries.note_use(file)
        return opened

    def _opened_fresh(self, file: Path, number: int) -> OpenShard:
        """Open a shard that was just fetched, and its hash taken. Raises UserError if it holds something else."""
        try:
            return self._opened_file(file, number, cache_entries.Use(file), fresh=True)
        except Damaged as error:
            where = self._store.label_of(self.description.shards[number].name)
            raise UserError(f"{where} is not as {FILE} says: {error}; write the shards again") from error

    def _fetch(self, file: Path, number: int) -> None:
        """Fetch a shard into the cache. Raises UserError naming it, or NoRoom."""
        shard = self.description.shards[number]
        temporary = cache_entries.unfinished(file)

        def fetched() -> None:
            size, digest = 0, hashlib.sha256()
            with open(temporary, "rb+") as target:
                for block in self._store.blocks(shard.name, shard.bytes):
                    size += len(block)
                    digest.update(block)
                    if size > shard.bytes:
                        break
                    with _own_writing():
                        target.write(block)
            if size < shard.bytes:
                raise ConnectionError(f"the connection ended after {size} of {shard.bytes} bytes")
            if size > shard.bytes or digest.hexdigest() != shard.sha256:
                raise Damaged("size and SHA-256 are not those of its description")

        try:
            with locked(self._folder / "room.lock"):  # until the space is taken, so that others do not count on it
                cache_entries.make_room(self._folder, file, shard.bytes)
                with open(temporary, "wb") as target:
                    target.truncate(shard.bytes)
                    if hasattr(os, "posix_fallocate"):
                        os.posix_fallocate(target.fileno(), 0, shard.bytes)
            try:
                self._store.tried(shard.name, fetched)
            except UserError as error:
                if isinstance(error.__cause__, Damaged):
                    where = self._store.label_of(shard.name)
                    raise UserError(f"{where} is damaged: {error.__cause__}; copy it there again") from error
                raise
            with locked(self._folder / "room.lock"):  # so that others count either name, never none
                os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _own_writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalError(error.errno, error.strerror) from error


@contextmanager
def _own_disk(folder: Path) -> Iterator[None]:
    """Turn errors of the disk of this machine into UserError; not NoRoom."""
    try:
        yield
    except cache_entries.NoRoom:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"shards cannot be kept in {folder}: {reason}; set ELUCID_CACHE to a roomier folder") from error
