"""Faults in the datasets."""

from mutation import Mutation

MUTATIONS = [
  Mutation(
    "data/copying.py",
    "weights[:, half:-1] = 1",
    "weights[:, half:] = 1",
    "data",
  ),
  Mutation(
    "data/text.py",
    "(self._data.size - 1) // length",
    "self._data.size // length",
    "data",
  ),
  Mutation(
    "data/reading.py",
    "if (data.size, digest) != (file.size, file.sha256):",
    "if data.size != file.size:",
    "data",
  ),
]
