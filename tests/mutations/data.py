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
  Mutation(
    "data/recall.py",
    "weights[:, 2 * num_pairs :: 2] = 1",
    "weights[:, ::2] = 1",
    "data/test_recall.py",
  ),
  Mutation(
    "data/recall.py",
    "again = np.take_along_axis(pairs, order[:, :, None], 1)",
    "again = pairs",
    "data/test_recall.py",
  ),
]
