"""What synthetic tasks share: sequences drawn from the seed and the step."""

import abc
import hashlib
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from slim.data import dataset
from slim.types import Batch

_NUM_EVALUATION_BATCHES = 16


class Synthetic(abc.ABC):
  """A task whose sequences are drawn anew at each step; nothing is downloaded.

  Train, validation and test are disjoint streams. A subclass gives the task its
  name and draws its sequences.
  """

  task: ClassVar[str]

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
      sequence_length: T, tokens.
      batch_size: B, sequences.
      seed: Selects the sequences, at least 0.
      vocab_size: Tokens in the vocabulary.

    Raises:
      SettingError: If an argument is not as described, or does not fit the
        task.
    """
    dataset.check_choice("split", split, dataset.SPLITS)
    dataset.check_at_least("batch_size", batch_size, 1)
    dataset.check_at_least("seed", seed, 0)
    dataset.check_at_least("vocab_size", vocab_size, 2)
    self._split = split
    self._sequence_length = sequence_length
    self._batch_size = batch_size
    self._seed = seed
    self._vocab_size = vocab_size
    self.check()

  @abc.abstractmethod
  def check(self) -> None:
    """Raises SettingError if length and vocabulary do not fit the task."""

  @abc.abstractmethod
  def draw(self, generator: np.random.Generator, rows: slice) -> Batch:
    """Draws the sequences of a step; `rows` are those to return."""

  @property
  def name(self) -> str:
    """The source of the sequences, in a few words."""
    return self.task

  @property
  def is_continuous(self) -> bool:
    """False: sequences are independent."""
    return False

  @property
  def description(self) -> str:
    """The name, the split and every setting that its batches depend on."""
    return (
      f"{self.task}, {self._split}: "
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
    generator = dataset.create_generator(self._seed, self._split, step)
    return self.draw(generator, rows)

  def evaluation_batches(self) -> Iterator[Batch]:
    """Yields the batches of the first 16 steps of the split."""
    return map(self.batch, range(_NUM_EVALUATION_BATCHES))
