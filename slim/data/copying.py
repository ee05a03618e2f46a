"""The Copying task: repeat the first half of the sequence."""

import numpy as np

from slim.data.synthetic import Synthetic
from slim.settings import SettingError
from slim.types import Batch


class Copying(Synthetic):
  """Sequences `0 w 0 w` with a new random w each.

  w has T/2 - 1 tokens, independent and uniform in 1 .. vocab_size - 1. The 0
  marks the start of a copy. The targets are the inputs shifted left by one,
  with a 0 at the end:

    inputs   0 a b c 0 a b c
    targets  a b c 0 a b c 0
    weights  0 0 0 0 1 1 1 0      (T = 8)

  The weight is 1 where the target is in the second w, T/2 <= t <= T - 2.
  The first w cannot be predicted, and the position of a 0 is always the same.
  A model that guesses has a loss of ln(vocab_size - 1) nats; one that copies
  has 0. T is even and at least 4.

  A sequence occurs twice with probability 1 / (vocab_size - 1)^(T/2 - 1).

  References:
    Likhosherstov et al., 2021 (SLiM), https://arxiv.org/abs/2012.11346, with
    T = 512 and vocab_size = 256.
  """

  task = "copying"

  def check(self) -> None:
    """Raises SettingError if T is odd or too short."""
    if self._sequence_length < 4 or self._sequence_length % 2:
      raise SettingError(
        "sequence_length",
        "must be even and at least 4, as a copying sequence "
        f"is 0 w 0 w, got {self._sequence_length}",
      )

  def draw(self, generator: np.random.Generator, rows: slice) -> Batch:
    """Draws the words of a step."""
    half = self._sequence_length // 2
    words = generator.integers(
      1, self._vocab_size, size=(self._batch_size, half - 1), dtype=np.int32
    )[rows]
    marks = np.zeros((words.shape[0], 1), np.int32)
    inputs = np.concatenate([marks, words, marks, words], axis=1)
    targets = np.concatenate([words, marks, words, marks], axis=1)
    weights = np.zeros(inputs.shape, np.float32)
    weights[:, half:-1] = 1
    return Batch._make((inputs, targets, weights, None))
