"""Arbitrary weights for tests of their file."""

import numpy as np


def make_params():
  """Returns arbitrary bits, including NaNs; one array in Fortran order."""
  bits = np.random.default_rng(0).integers(0, 2**32, 60, np.uint32)
  x, y = np.split(bits.view(np.float32), 2)
  return {
    "layer_0": {"attention": {"q": {"kernel": x.reshape(5, 6).T}}},
    "logits": {"out": {"bias": y}},
  }
