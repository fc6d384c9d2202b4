"""Files of one array for all samples, in every format, for tests."""

import numpy as np
import pytest

VALUES = np.random.default_rng(0).normal(280, 20, (13, 3, 8, 16)).astype(np.float32)
CLASSES = np.arange(13) % 4


def h5(path, chunks=None, **arrays):
    h5py = pytest.importorskip("h5py")
    packing = {"chunks": chunks, "compression": "gzip"} if chunks else {}
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, **(packing if array.ndim > 2 else {}))
    return path


def zarr_folder(path, version=3, chunks=(1, 3, 8, 16), shards=None, store=None, **arrays):
    zarr = pytest.importorskip("zarr", minversion="3")
    group = zarr.open_group(store or path, mode="w", zarr_format=version)
    for name, array in arrays.items():
        packing = {"chunks": chunks, "shards": shards} if array.ndim > 2 else {}
        group.create_array(name, data=array, **packing)
    return path


def zarr_zip(path, **arrays):
    storage = pytest.importorskip("zarr", minversion="3").storage
    with storage.ZipStore(path, mode="w") as store:
        return zarr_folder(path, shards=(4, 3, 8, 16), store=store, **arrays)


def npz(path, save=np.savez, **arrays):
    save(path, **arrays)
    return path


def npy(path, x, labels=None):
    np.save(path, x)
    return path


WRITERS = {
    "contiguous.h5": h5,
    "chunked.h5": lambda path, **arrays: h5(path, (4, 1, 8, 16), **arrays),
    "single.hdf5": lambda path, **arrays: h5(path, (1, 3, 8, 16), **arrays),
    "three.zarr": zarr_folder,
    "two.zarr": lambda path, **arrays: zarr_folder(path, 2, (5, 3, 4, 16), **arrays),
    "packed.zarr.zip": zarr_zip,
    "plain.npy": npy,
    "plain.npz": npz,
    "packed.npz": lambda path, **arrays: npz(path, np.savez_compressed, **arrays),
}
