"""The Copying task: repeat the first half of the sequence."""

import hashlib
from collections.abc import Iterator

import numpy as np

from slim.data import dataset
from slim.settings import SettingError
from slim.types import Batch

_NUM_EVALUATION_BATCHES = 16


class Copying:
  """Sequences `0 w 0 w` with a new random w each; nothing is downloaded.

  w has T/2 - 1 tokens, independent and uniform in 1 .. vocab_size - 1. The 0
  marks the start of a copy. The targets are the inputs shifted left by one,
  with a 0 at the end:

    inputs   0 a b c 0 a b c
    targets  a b c 0 a b c 0
    weights  0 0 0 0 1 1 1 0      (T = 8)

  The weight is 1 where the target is in the second w, T/2 <= t <= T - 2.
  The first w cannot be predicted, and the position of a 0 is always the same.
  A model that guesses has a loss of ln(vocab_size - 1) nats; one that copies
  has 0.

  Train, validation and test are disjoint streams. A sequence occurs twice with
  probability 1 / (vocab_size - 1)^(T/2 - 1).

  References:
    Likhosherstov et al., 2021 (SLiM), https://arxiv.org/abs/2012.11346, with
    T = 512 and vocab_size = 256.
  """

  def __init__(
    self,
    *,
    split: str,
    sequence_length: int,
    batch_size: int,
    seed: int,
    vocab_size: int,
  ):
    """Prepares the task.

    Args:
      split: One of `dataset.SPLITS`.
      sequence_length: T, tokens; even, at least 4.
      batch_size: B, sequences.
      seed: Selects the sequences, at least 0.
      vocab_size: Tokens in the vocabulary, including the 0; at least 2.

    Raises:
      SettingError: If an argument is not as described.
    """
    dataset.check_choice("split", split, dataset.SPLITS)
    dataset.check_at_least("batch_size", batch_size, 1)
    dataset.check_at_least("seed", seed, 0)
    dataset.check_at_least("vocab_size", vocab_size, 2)
    if sequence_length < 4 or sequence_length % 2:
      raise SettingError(
        "sequence_length",
        "must be even and at least 4, as a copying sequence "
        f"is 0 w 0 w; got {sequence_length}",
      )
    self._split = split
    self._sequence_length = sequence_length
    self._batch_size = batch_size
    self._seed = seed
    self._vocab_size = vocab_size

  @property
  def name(self) -> str:
    """The source of the sequences, in a few words."""
    return "copying"

  @property
  def is_continuous(self) -> bool:
    """False: sequences are independent."""
    return False

  @property
  def description(self) -> str:
    """The name, the split and every setting that its batches depend on."""
    return (
      f"copying, {self._split}: "
      f"vocab_size={self._vocab_size}, "
      f"sequence_length={self._sequence_length}, "
      f"batch_size={self._batch_size}, seed={self._seed}"
    )

  @property
  def fingerprint(self) -> str:
    """The sha256 of `description`, which determines all batches."""
    return hashlib.sha256(self.description.encode()).hexdigest()

  def batch(self, step: int, rows: slice = dataset.ALL_ROWS) -> Batch:
    """Draws the sequences of one step.

    Args:
      step: Counted from 0.
      rows: Which of them.

    Returns:
      A Batch: inputs and targets [B, T], int32; weights [B, T], float32.
    """
    half = self._sequence_length // 2
    generator = dataset.create_generator(self._seed, self._split, step)
    words = generator.integers(
      1, self._vocab_size, size=(self._batch_size, half - 1), dtype=np.int32
    )[rows]
    marks = np.zeros((words.shape[0], 1), np.int32)
    inputs = np.concatenate([marks, words, marks, words], axis=1)
    targets = np.concatenate([words, marks, words, marks], axis=1)
    weights = np.zeros(inputs.shape, np.float32)
    weights[:, half:-1] = 1
    return Batch._make((inputs, targets, weights))

  def evaluation_batches(self) -> Iterator[Batch]:
    """Yields the batches of the first 16 steps of the split."""
    return map(self.batch, range(_NUM_EVALUATION_BATCHES))
