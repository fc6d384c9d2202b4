"""Single flipped bits in files of the newest format: none is loaded in silence.

`FLIPS=250 python -m pytest tests/fault/test_bit_flips.py` tries 250 in each of the four kinds, 1,000 in all.
"""

import os
import random

import numpy as np
import pytest

from elucid.dnnlib.errors import UserError
from elucid.metrics.reference import load_reference
from elucid.torch_utils.checkpoint import load_state, newest_state
from elucid.training.data import npy
from elucid.training.data.cache import cached
from elucid.training.data.dataset import open_dataset
from elucid.training.snapshots.snapshot import load_snapshot
from tests.fault.hostile.kit import Kit

FLIPS = int(os.environ.get("FLIPS", "25"))


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    return Kit(tmp_path_factory.mktemp("flips") / "kit")


def flipped(data: bytes, bit: int) -> bytes:
    result = bytearray(data)
    result[bit // 8] ^= 1 << bit % 8
    return bytes(result)


def write_latents(kit):
    path = kit.folder / "latents.npy"
    path.write_bytes(npy.to_npy(np.random.default_rng(0).normal(size=(8, 16, 16)).astype(np.float16)))
    return path


KINDS = {
    "state": (lambda kit: kit.state_file, load_state),
    "snapshot": (lambda kit: kit.snapshot, load_snapshot),
    "reference": (lambda kit: kit.reference, lambda path: load_reference(str(path))),
    "latents": (write_latents, lambda path: npy.from_npy(path.read_bytes(), str(path))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_flipped_bits_are_noticed(kind, kit):
    make, load = KINDS[kind]
    whole = make(kit)
    load(whole)  # so that each refusal has the one reason that is meant
    data, chance, path = whole.read_bytes(), random.Random(1), kit.folder / f"flipped{whole.suffix}"
    for bit in chance.sample(range(8 * len(data)), FLIPS):
        path.write_bytes(flipped(data, bit))
        with pytest.raises(UserError, match="checksum"):
            load(path)


def test_the_newest_state_that_is_whole_is_taken(kit, tmp_path, capsys):
    data = kit.state_file.read_bytes()
    (tmp_path / "training-state-000001.pt").write_bytes(data)
    (tmp_path / "training-state-000002.pt").write_bytes(flipped(data, 4 * len(data)))
    path, _ = newest_state(tmp_path)
    assert path.name == "training-state-000001.pt" and "training-state-000002.pt" in capsys.readouterr().out


def test_the_cache_of_decoded_images(kit, tmp_path):
    """A flipped pixel is an error when it is read; a flipped header or checksum makes the file anew."""
    data = open_dataset(kit.pictures)
    dataset = cached(data, tmp_path, progress=False)
    file, whole = dataset.cache_file, dataset.cache_file.read_bytes()
    pixels = range(8 * dataset.array.offset, 8 * (dataset.array.offset + dataset.array.nbytes))
    expected, chance = np.array(dataset.array), random.Random(2)
    del dataset
    for bit in [*chance.sample(pixels, FLIPS), *chance.sample(range(8 * len(whole)), FLIPS)]:
        file.write_bytes(flipped(whole, bit))
        found = cached(data, tmp_path, progress=False)
        if bit in pixels:
            index = (bit - pixels.start) // (len(pixels) // len(data))
            with pytest.raises(UserError, match=rf"image {index}, .*dataset_tool.py cache --clear"):
                found.read(np.arange(len(data)))
            others = np.delete(np.arange(len(data)), index)
            assert np.array_equal(found.read(others), expected[others])
        else:
            assert np.array_equal(found.read(np.arange(len(data))), expected)
        del found
