"""Checks that make a stranger's HDF5, npy or zarr safe to open."""
