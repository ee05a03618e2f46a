"""The task of associative recall: tell the value that came with a key."""

import numpy as np

from slim.data.synthetic import Synthetic
from slim.settings import SettingError
from slim.types import Batch


class AssociativeRecall(Synthetic):
  """Pairs of keys and values, then the same pairs in another order.

  There are P = T / 4 pairs. Their keys are different tokens of the first half
  of the vocabulary, their values any tokens of the second half. The targets are
  the inputs shifted left by one, with a 0 at the end:

    inputs   a x b y b y a x
    targets  x b y b y a x 0
    weights  0 0 0 0 1 0 1 0      (T = 8)

  The weight is 1 where the input is a key of the second half, whose value has
  been seen. A model that guesses among all values has a loss of
  ln(vocab_size / 2) nats; one that recalls has 0. A state of one size can hold
  so many pairs only: softmax attention, the delta rule and linear attention
  differ in how many. T is a multiple of 4, and vocab_size at least T / 2.

  References:
    Arora et al., 2023 (Zoology), https://arxiv.org/abs/2312.04927, which asks
    for some of the pairs at random distances.
  """

  task = "recall"

  def check(self) -> None:
    """Raises SettingError if T does not fit, or there are too few keys."""
    if self._sequence_length < 4 or self._sequence_length % 4:
      raise SettingError(
        "sequence_length",
        "must be a multiple of 4 for 'recall', which has T / 4 pairs twice, "
        f"got {self._sequence_length}",
      )
    if self._vocab_size < self._sequence_length // 2:
      raise SettingError(
        "vocab_size",
        f"must be at least {self._sequence_length // 2} for 'recall', so that "
        f"all keys of a sequence differ, got {self._vocab_size}",
      )

  def draw(self, generator: np.random.Generator, rows: slice) -> Batch:
    """Draws the pairs of a step."""
    num_pairs, num_keys = self._sequence_length // 4, self._vocab_size // 2
    shape = self._batch_size, num_pairs
    keys = generator.permuted(
      np.broadcast_to(np.arange(num_keys), (self._batch_size, num_keys)), axis=1
    )[:, :num_pairs]
    values = generator.integers(num_keys, self._vocab_size, size=shape)
    pairs = np.stack([keys, values], -1)
    order = generator.permuted(
      np.broadcast_to(np.arange(num_pairs), shape), axis=1
    )
    again = np.take_along_axis(pairs, order[:, :, None], 1)
    inputs = np.concatenate([pairs, again], 1).reshape(self._batch_size, -1)
    inputs = inputs[rows].astype(np.int32)
    targets = np.concatenate([inputs[:, 1:], np.zeros_like(inputs[:, :1])], 1)
    weights = np.zeros(inputs.shape, np.float32)
    weights[:, 2 * num_pairs :: 2] = 1
    return Batch._make((inputs, targets, weights, None))
