"""What makes a stranger's HDF5, npy, Blosc or table safe to open."""
