"""Functions that several kernels share."""
