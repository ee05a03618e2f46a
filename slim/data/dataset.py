"""The interface of a dataset, and what all datasets are built from."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from slim.settings import SettingError
from slim.types import Batch

SPLITS = ("train", "validation", "test")
ALL_ROWS = slice(None)


class Dataset(Protocol):
  """Batches of one split; each is a pure function of the settings and the step.

  There is no position to save. A run that stopped after step 700 asks for
  `batch(700)` next, on any machine. All batches have the same shapes and hold
  NumPy arrays.
  """

  @property
  def name(self) -> str:
    """The source of the sequences, in a few words."""

  @property
  def is_continuous(self) -> bool:
    """Whether each evaluation window continues the one before it."""

  @property
  def description(self) -> str:
    """The name, the split and every setting that its batches depend on."""

  @property
  def fingerprint(self) -> str:
    """The sha256 of `description` and of any data read: 64 hex digits.

    Equal fingerprints mean equal batches at every step. A resumed run compares
    it with the stored one, to detect that a file or a setting has changed.
    """

  def batch(self, step: int, rows: slice = ALL_ROWS) -> Batch:
    """Returns the training batch of a step, counted from 0, or some rows."""

  def evaluation_batches(self) -> Iterator[Batch]:
    """Yields the fixed, finite list of batches that evaluate the split."""


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
  """Raises unless a value is one of the choices.

  Args:
    name: The argument's name, for the error.
    value: The value.
    choices: The values it may have.

  Raises:
    SettingError: If it is not.
  """
  if value not in choices:
    known = ", ".join(repr(choice) for choice in choices)
    raise SettingError(name, f"must be one of {known}, got {value!r}")


def check_at_least(name: str, value: int, smallest: int) -> None:
  """Raises if a number is too small.

  Args:
    name: The argument's name, for the error.
    value: The number.
    smallest: The smallest allowed number.

  Raises:
    SettingError: If it is less than `smallest`.
  """
  if value < smallest:
    raise SettingError(name, f"must be at least {smallest}, got {value}")


def create_generator(seed: int, split: str, step: int) -> np.random.Generator:
  """Creates the random generator of one step of one split.

  Philox encrypts a counter with a key. The seed is the key. The split and the
  step are the two high words of the counter, so each step has 2^128 blocks of
  its own: streams never overlap, and no step needs the one before it.

  Args:
    seed: The key, 0 <= seed < 2^128.
    split: One of `SPLITS`.
    step: Counted from 0.

  Returns:
    A generator at the start of its stream.
  """
  counter = [0, 0, SPLITS.index(split), step]
  return np.random.Generator(np.random.Philox(key=seed, counter=counter))
