"""Arrays read directly: one array for all samples (HDF5, Zarr, npy, npz), and one file for each (npy, npz, TIFF)."""
