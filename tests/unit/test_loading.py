"""What comes before the device: batches ahead, time waited, all images on the device through a bounded buffer."""

import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch

from elucid.dnnlib.errors import UserError
from elucid.training.config.settings import DataOptions
from elucid.training.data.loading import ahead as loading
from elucid.training.data.loading import on_device as resident
from elucid.training.data.loading.ahead import Ahead
from elucid.training.data.loading.stream import BatchStream
from elucid.training.loggers.console import Console

CPU, META = torch.device("cpu"), torch.device("meta")


class Source:
    """Remembers what was loaded, each after `seconds`."""

    def __init__(self, seconds=0.0):
        self.seconds, self.loaded = seconds, []

    def __call__(self, position, count):
        time.sleep(self.seconds)
        self.loaded.append((position, count))
        return (torch.arange(position, position + count),)

    def wait_for(self, number):
        end = time.monotonic() + 10
        while len(self.loaded) < number and time.monotonic() < end:
            time.sleep(0.002)
        return self.loaded


def take(ahead, position, count=4, stride=4):
    (values,) = ahead.get(position, count, stride)
    assert values.tolist() == list(range(position, position + count))


@pytest.mark.parametrize("depth, first, steady", [(0, [], []), (1, [4], [8]), (2, [4], [8, 12]), (3, [4], [8, 12, 16])])
def test_so_many_batches_are_loaded_ahead(depth, first, steady):
    source = Source()
    ahead = Ahead(source, depth, CPU)
    take(ahead, 0)
    assert [place for place, _ in source.wait_for(1 + len(first))[1:]] == first, "one, until a forecast was right"
    take(ahead, 4)
    if depth > 2:
        take(ahead, 8)
        steady = [8, 12, 16, 20]
    found = [place for place, _ in source.wait_for(2 + len(steady))[2:]]
    assert found == steady
    ahead.close()


def test_sizes_that_change_lose_one_batch_each():
    source = Source()
    ahead = Ahead(source, 2, CPU)
    for position, count in ((0, 4), (4, 2), (6, 5), (11, 3)):
        take(ahead, position, count, count)
        source.wait_for(len(source.loaded))
    ahead.close()
    assert len(source.loaded) <= 2 * 4


def test_the_wait_is_counted_and_loading_ahead_ends_it():
    slow = Source(0.1)
    waits = {}
    for depth in (0, 2):
        ahead = Ahead(slow, depth, CPU)
        for position in range(0, 24, 4):
            take(ahead, position)
            time.sleep(0.15)
        waits[depth] = ahead.waited
        ahead.close()
    assert waits[0] > 0.55 and waits[2] < waits[0] / 2, "all six, and the first one only"


def test_errors_of_the_thread_come_with_their_batch():
    def load(position, count):
        if position == 4:
            raise ValueError("broken image")
        return (torch.zeros(count),)

    ahead = Ahead(load, 2, CPU)
    ahead.get(0, 4, 4)
    with pytest.raises(ValueError, match="broken image"):
        ahead.get(4, 4, 4)
    ahead.close()


class Images:
    """Mapped images of which some are read at a time; notes how many, and by which thread."""

    label_dim = 0

    def __init__(self, count, shape=(3, 64, 64)):
        self.array = np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)
        self.reads = []

    def __len__(self):
        return len(self.array)

    def read(self, indices):
        self.reads.append((len(indices), threading.get_ident()))
        return self.array[indices]

    def label(self, index):
        return np.zeros(0, np.float32)


def test_all_images_go_to_the_device_in_chunks(monkeypatch):
    """The host holds a buffer and a chunk, however large the set; `meta` takes no memory itself."""
    monkeypatch.setattr(resident, "CHUNK", 1 << 20)
    images = Images(2000)  # 24.6 MB
    tracemalloc.start()
    try:
        held, _ = resident.on_device(len(images), images.read, META, 1.0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held.shape == images.array.shape and held.device.type == "meta"
    assert sum(number for number, _ in images.reads) == 1 + 2000 and max(images.reads)[0] * 12288 <= 1 << 20
    assert peak < 3 * (1 << 20)


def test_the_copy_is_right(monkeypatch):
    monkeypatch.setattr(resident, "CHUNK", 7 * 12288)
    images = Images(50)
    held, _ = resident.on_device(50, images.read, CPU, 1.0)
    np.testing.assert_array_equal(held.numpy(), images.array)


def test_without_room_on_the_device_it_goes_on_from_the_disk_cache(monkeypatch, capsys):
    monkeypatch.setattr(resident, "free_memory", lambda device: 1_000_000)
    images = Images(50)  # 0.6 MB, more than half
    stream = BatchStream(images, [], META, keep_on_device=True)
    assert "`cache`=gpu" in (line := capsys.readouterr().err) and "disk cache" in line and "gpu_share" in line
    assert stream.next(4).images.shape == (4, 3, 64, 64) and max(images.reads)[0] == 4
    stream.close()
    assert resident.on_device(50, images.read, META, 0.7)[0] is not None


def test_on_the_cpu_the_disk_cache_is_the_memory():
    images = Images(50)
    stream = BatchStream(images, [], CPU, keep_on_device=True)
    assert images.reads == []
    stream.close()


def test_what_was_loaded_in_another_order_is_forgotten():
    class Numbers(Images):
        def read(self, indices):
            return self.array[indices] * 0 + indices.astype(np.uint8)[:, None, None, None]

    def numbers(stream, batches):
        found = [stream.next(10).images[:, 0, 0, 0].tolist() for _ in range(batches)]
        stream.close()
        return sum(found, [])

    changed = BatchStream(Numbers(100, (1, 1, 1)), [], CPU, seed=2)
    changed.next(10), changed.next(10)
    changed.use_order("feistel")
    expected = numbers(BatchStream(Numbers(100, (1, 1, 1)), [], CPU, seed=2, order="feistel"), 10)
    assert sorted(expected) == list(range(100)) and numbers(changed, 8) == expected[20:]


class OnHost:
    """A tensor that notes what CUDA would be asked to do with it."""

    def __init__(self, log, name="host"):
        self.log, self.name = log, name

    def to(self, device, non_blocking):
        self.log.append(("copied", device.type, non_blocking, Streams.current))
        return OnHost(self.log, "device")

    def record_stream(self, stream):
        self.log.append(("kept for", self.name, stream))


class Streams:
    """Stands in for CUDA's streams: which one is the current one, and what waits for what."""

    current = "main"

    def __init__(self, log):
        self.log = log

    def record_event(self):
        self.log.append(("recorded", Streams.current))
        return "event"

    def wait_event(self, event):
        self.log.append(("waits for", event, Streams.current))

    def __enter__(self):
        Streams.current = "side"

    def __exit__(self, *_):
        Streams.current = "main"


def test_on_cuda_the_copy_runs_in_a_stream_of_its_own(monkeypatch):
    """From pinned memory; the main stream waits for it, and the memory is kept until what it has queued is done."""
    log: list = []
    main = Streams(log)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Streams(log))
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: main)
    monkeypatch.setattr(loading, "pinned", lambda part, device: [log.append(("pinned", Streams.current)), part][1])
    ahead = Ahead(lambda position, count: (OnHost(log),), 0, torch.device("cuda"))
    for position in (0, 4):
        (part,) = ahead.get(position, 4, 4)
        assert part.name == "device"
    ahead.close()
    copied = [("pinned", "side"), ("copied", "cuda", True, "side"), ("recorded", "side")]
    assert log == [*copied, ("waits for", "event", "main"), ("kept for", "device", main)] * 2


def test_room_on_cuda_is_looked_up(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 << 20, 80 << 30))
    assert resident.free_memory(torch.device("cuda", 3)) == 3 << 20 and resident.free_memory(META) is None


@pytest.mark.parametrize("wrong", [{"gpu_share": 2}, {"gpu_share": -0.1}, {"prefetch": -1}, {"cache": "tape"}])
def test_wrong_options_are_named(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=f"dataset.{name}="):
        DataOptions("set.zip", **wrong)


@pytest.mark.parametrize("waited, shown", [(0.0, None), (0.09, None), (1.2, "data wait 12%")])
def test_the_status_line_shows_a_wait_of_one_percent_and_more(waited, shown):
    mean = {"Resources/peak_gpu_mem_gb": 0, "Timing/sec_per_tick": 10.0, "Timing/data_wait_sec": waited}
    columns = [one for one in Console.further(mean) if one.startswith("data")]
    assert columns == ([shown] if shown else [])
