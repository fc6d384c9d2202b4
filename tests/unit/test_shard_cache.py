"""Shards from a store: fetched once by the processes of a machine, within the limit, in spite of failures, or named."""

import json
import multiprocessing
import os
import shutil
import time

import numpy as np
import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.dnnlib.locks import locked
from elucid.training.data import cache_entries
from elucid.training.data.loading.stream import BatchStream
from elucid.training.data.streaming import held as holding
from elucid.training.data.streaming import stores
from elucid.training.data.streaming.dataset import ShardDataset
from elucid.training.data.streaming.sources import StoredShards, is_sharded
from tests import shards

pytest.importorskip("aiohttp")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    shards.write(shards.pictures(folder / "pictures"), folder / "shards")
    return folder / "shards"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ELUCID_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(stores, "BACKOFF", 0.001)


def content(data) -> list:
    return [(data.image(index).tolist(), data.label(index).tolist()) for index in range(len(data))]


def entries(folder) -> list:
    return cache_entries.entries(folder / "cache" / "datasets")


def held(folder) -> int:
    """Bytes in the cache, which only grow or change their name under this lock."""
    with locked(folder / "cache" / "datasets" / "room.lock"):
        return sum(path.stat().st_size for path in list((folder / "cache" / "datasets").glob("*.tar")) if path.exists())


def batches(data, number: int, **options) -> list:
    stream = BatchStream(data, [], torch.device("cpu"), seed=1, **options)
    found = [stream.next(10).images[:, 0, 0, 0].tolist() for _ in range(number)]
    stream.close()
    return found


def test_a_web_server_is_read_once(written, tmp_path):
    local = content(ShardDataset(written, use_labels=True))
    with shards.served(written) as (url, server):
        for address in (url, f"{url}/", f"{url}/shards.json"):
            assert content(ShardDataset(address, use_labels=True)) == local
        asked = [name for name in server.requests if name != "shards.json"]
        assert sorted(asked) == [f"shard-{number:06d}.tar" for number in range(15)]
    assert len(entries(tmp_path)) == 15 and all(entry.file.suffix == ".tar" for entry in entries(tmp_path))


def test_training_order_and_batches_are_those_of_a_folder(written):
    wanted = batches(ShardDataset(written, window=2), 15)
    with shards.served(written) as (url, _):
        assert batches(ShardDataset(url, window=2), 15) == wanted
        assert batches(ShardDataset(url, window=2), 15, xflip=True) == batches(
            ShardDataset(written, window=2), 15, xflip=True
        )
    assert sorted(sum(wanted[:6], [])) == list(range(60))


def test_what_comes_next_is_fetched_in_the_background(written):
    with shards.served(written) as (url, server):
        data = ShardDataset(url, window=2)
        data.expect([3], [8, 1])
        assert "shard-000003.tar" in server.requests
        end = time.monotonic() + 10
        while len(server.requests) < 4 and time.monotonic() < end:
            time.sleep(0.01)
        assert sorted(server.requests[1:]) == ["shard-000001.tar", "shard-000003.tar", "shard-000008.tar"]


@pytest.mark.parametrize("window", [1, 3])
def test_the_limit_is_kept(window, written, tmp_path, monkeypatch):
    """Seven shards, of fifteen: room for what a window of three and the next one need, and one more."""
    size = (written / "shard-000000.tar").stat().st_size
    monkeypatch.setenv("ELUCID_CACHE_GB", str(7 * size / 1e9))
    wanted = batches(ShardDataset(written, window=window), 24)
    largest = []
    with shards.served(written) as (url, server):
        data = ShardDataset(url, window=window)
        stream = BatchStream(data, [], torch.device("cpu"), seed=1)
        for batch in wanted:
            assert stream.next(10).images[:, 0, 0, 0].tolist() == batch
            largest.append(held(tmp_path))
        stream.close()
    assert 5 * size <= max(largest) <= 7 * size
    assert len(server.requests) > 1 + 3 * 15, "four epochs, so that most were fetched again"


def test_too_little_room_is_said_and_still_works(written, tmp_path, monkeypatch, capsys):
    size = (written / "shard-000000.tar").stat().st_size
    monkeypatch.setenv("ELUCID_CACHE_GB", str(2 * size / 1e9))
    with shards.served(written) as (url, _):
        data = ShardDataset(url, window=4)
        assert "ELUCID_CACHE_GB" in (line := capsys.readouterr().err) and "dataset.reader.window" in line
        assert batches(data, 7) == batches(ShardDataset(written, window=4), 7)
        assert sum(entry.size for entry in entries(tmp_path)) <= 2 * size


def test_no_room_at_all_is_one_line(written, monkeypatch):
    monkeypatch.setenv("ELUCID_CACHE_GB", "1e-6")
    with shards.served(written) as (url, _), pytest.raises(UserError, match="ELUCID_CACHE_GB=1e-06"):
        ShardDataset(url)


def test_a_cache_that_others_fill_is_one_line(written, tmp_path, monkeypatch):
    """Their entry is in use, and leaves room for half a shard."""
    monkeypatch.setattr(holding, "PATIENCE", 0.2)
    size = (written / "shard-000000.tar").stat().st_size
    monkeypatch.setenv("ELUCID_CACHE_GB", str(1.5 * size / 1e9))
    other = tmp_path / "cache" / "datasets" / f"other-{'0' * 32}.npy"
    other.parent.mkdir(parents=True)
    other.write_bytes(bytes(size))
    use = cache_entries.Use(other)
    with shards.served(written) as (url, _):
        with pytest.raises(UserError, match=r"shard-000000\.tar.*ELUCID_CACHE_GB"):
            ShardDataset(url).image(0)
        del use
        assert ShardDataset(url).image(0).shape == (1, 8, 8) and not other.exists()


FAULTS = [503, 500, 429, "cut", "wrong"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_fails_now_and_then(fault, written):
    wanted = content(ShardDataset(written, use_labels=True))
    with shards.served(written, lambda name, number: fault if number in (1, 3) and ".tar" in name else None) as (
        url,
        _,
    ):
        assert content(ShardDataset(url, use_labels=True)) == wanted


def refused(url: str) -> str:
    with pytest.raises(UserError) as error:
        data = ShardDataset(url)
        batches(data, 6)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_that_keeps_failing(fault, written, tmp_path):
    with shards.served(written, lambda name, number: fault if name == "shard-000004.tar" else None) as (url, server):
        assert f"{url}/shard-000004.tar" in refused(url)
        assert server.requests.count("shard-000004.tar") >= stores.TRIES
    assert not list((tmp_path / "cache").rglob("*.tmp.tar"))


@pytest.mark.parametrize("fault", [404, 403])
def test_what_is_missing_or_forbidden_is_asked_for_once(fault, written):
    with shards.served(written, lambda name, number: fault) as (url, server):
        assert f"{url}/shards.json" in refused(url)
        assert len(server.requests) <= 2, "with a question for its size"
    with shards.served(written, lambda name, number: fault if name == "shard-000004.tar" else None) as (url, server):
        assert f"{url}/shard-000004.tar" in refused(url)


def test_no_server(written):
    with shards.served(written) as (url, _):
        pass
    assert url in refused(url)


def test_damage_in_the_cache_is_mended(written, tmp_path):
    wanted = content(ShardDataset(written))
    with shards.served(written) as (url, server):
        content(ShardDataset(url))
        for entry in entries(tmp_path)[:3]:
            entry.file.write_bytes(entry.file.read_bytes()[:-1] + b"x")
        asked = len(server.requests)
        assert content(ShardDataset(url)) == wanted
        assert len(server.requests) == asked + 1 + 3


def test_a_kill_leaves_nothing_in_the_way(written, tmp_path):
    """A file that was being fetched is locked by nobody after a kill; it counts as room until it is removed."""
    with shards.served(written) as (url, _):
        content(ShardDataset(url))
        file = entries(tmp_path)[0].file
        cache_entries.unfinished(file).write_bytes(b"x" * 1000)
        file.unlink()
        assert content(ShardDataset(url)) == content(ShardDataset(written))
    assert file.exists() and not cache_entries.unfinished(file).exists()


def read_from(url: str, rank: int, seconds: float, answers) -> None:
    data = ShardDataset(url, use_labels=True, window=2)
    stream = BatchStream(data, [], torch.device("cpu"), seed=1, rank=rank, world_size=2)
    found = []
    for _ in range(24):
        found.append(stream.next(5).images[:, 0, 0, 0].tolist())
        time.sleep(seconds)
    answers.put((rank, found))


@pytest.mark.parametrize("shards_kept", [15, 7])
def test_two_processes_share_the_cache_and_the_batches_of_one(shards_kept, written, tmp_path, monkeypatch):
    size = (written / "shard-000000.tar").stat().st_size
    monkeypatch.setenv("ELUCID_CACHE_GB", str(shards_kept * size / 1e9))
    alone = batches(ShardDataset(written, window=2), 24)
    context = multiprocessing.get_context("fork")
    with shards.served(written) as (url, server):
        answers = context.Queue()
        started = [context.Process(target=read_from, args=(url, rank, 0.002 * rank, answers)) for rank in (0, 1)]
        for process in started:
            process.start()
        found = dict(answers.get(timeout=60) for _ in started)
        for process in started:
            process.join(60)
    assert [one + other for one, other in zip(found[0], found[1], strict=True)] == alone
    asked = [name for name in server.requests if name != "shards.json"]
    if shards_kept == 15:
        assert sorted(asked) == sorted(set(asked)), "each was fetched by one of the two"
    assert sum(entry.size for entry in entries(tmp_path)) <= shards_kept * size


def test_the_cache_is_listed_and_cleared(written, tmp_path):
    with shards.served(written) as (url, _):
        data = ShardDataset(f"{url}")
        content(data)
        folder = tmp_path / "cache" / "datasets"
        lines = list(cache_entries.listing(folder))
        assert len(lines) == 2 and "shards" in lines[1] and "in use" in lines[1]
        del data
        assert len(cache_entries.clear(folder)) == 15 and list(folder.iterdir()) == [folder / "room.lock"]


def test_a_read_shard_may_be_removed_from_the_cache(written, tmp_path):
    with shards.served(written) as (url, _):
        data = ShardDataset(url)
        first = data.image(0)
        shutil.rmtree(tmp_path / "cache")
        np.testing.assert_array_equal(data.image(0), first)


@pytest.mark.parametrize(
    "address", ["s3://bucket/folder", "gs://bucket", "https://host/x", "hf://user/name/shards.json", "memory://x"]
)
def test_addresses_of_stores(address):
    assert is_sharded(address)


@pytest.mark.parametrize("address", ["images.zip", "builtin:digits", "hf://user/name", "/no/such/folder"])
def test_other_datasets(address):
    assert not is_sharded(address)


@pytest.mark.parametrize("address", ["nothing://x/y", "http://example.invalid/x", "hf://user", "https:/"])
def test_addresses_that_cannot_be_read(address):
    with pytest.raises(UserError, match=address.rstrip("/")) as error:
        stores.Store(address)
    assert "\n" not in str(error.value)


def test_a_hub(written, monkeypatch):
    """A local imitation of it; fsspec's configuration says where the hub is."""
    pytest.importorskip("huggingface_hub")
    import fsspec

    from tests.e2e.test_hub import COMMIT, Hub

    with Hub() as hub:
        monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": hub.address, "token": False})
        hub.repositories["datasets/user/name"] = {f"some/{path.name}": path.read_bytes() for path in written.iterdir()}
        address = f"hf://user/name@{COMMIT}/some"
        assert content(ShardDataset(f"{address}/shards.json")) == content(ShardDataset(written))
        with pytest.raises(UserError, match="hf://user/other/shards.json"):
            ShardDataset("hf://user/other/shards.json")
        hub.shutdown()


def test_any_store_of_fsspec(written, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in written.iterdir():
        memory.pipe(f"/bucket/folder/{path.name}", path.read_bytes())
    assert content(ShardDataset("memory://bucket/folder")) == content(ShardDataset(written))
    memory.rm("/bucket/folder/shard-000007.tar")
    shutil.rmtree(tmp_path / "cache")
    assert "memory://bucket/folder/shard-000007.tar" in refused("memory://bucket/folder")


def test_s3(written, tmp_path, monkeypatch):
    for name in ("moto", "flask", "s3fs"):
        pytest.importorskip(name)
    import boto3
    import s3fs
    from moto.server import ThreadedMotoServer

    known = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        s3fs.S3FileSystem.clear_instance_cache()
        client = boto3.client("s3")
        client.create_bucket(Bucket="bucket")
        for path in written.iterdir():
            client.upload_file(str(path), "bucket", f"folder/{path.name}")
        assert content(ShardDataset("s3://bucket/folder/")) == content(ShardDataset(written))
        client.delete_object(Bucket="bucket", Key="folder/shard-000004.tar")
        shutil.rmtree(tmp_path / "cache")
        assert "s3://bucket/folder/shard-000004.tar" in refused("s3://bucket/folder")
        assert "s3://other/folder/shards.json" in refused("s3://other/folder")
    finally:
        server.stop()
    assert os.environ["AWS_ENDPOINT_URL"]


def test_what_is_not_as_described_is_named(written, tmp_path):
    """The hash is right, and the number of samples is not."""
    copy = shutil.copytree(written, tmp_path / "copy")
    about = json.loads((copy / "shards.json").read_text())
    about["shards"][2]["samples"] = 3
    (copy / "shards.json").write_text(json.dumps(about))
    with shards.served(copy) as (url, _):
        assert f"{url}/shard-000002.tar" in (said := refused(url)) and "4 samples instead of 3" in said


def test_a_run_in_another_order_holds_shards_open(written, monkeypatch):
    """As one that began on a zip: nothing is foreseen, and each shard is still opened once while there is room."""
    opened = []
    real = StoredShards.open
    monkeypatch.setattr(StoredShards, "open", lambda source, number: (opened.append(number), real(source, number))[1])
    with shards.served(written) as (url, _):
        data = ShardDataset(url)
        assert sorted(sum(batches(data, 6, order="shuffled"), [])) == list(range(60))
    assert sorted(opened) == list(range(15))
