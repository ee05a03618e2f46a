"""What every dataset offers, and what all of them are made from."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from slim.types import Batch

SPLITS = ("train", "validation", "test")


class Dataset(Protocol):
  """Batches of one split, every one a pure function of the settings and step.

  There is no position to save: a run that stopped after step 700 asks for
  `batch(700)` next, on any machine and after any other calls. All batches have
  the same shapes, and hold numpy arrays.
  """

  @property
  def name(self) -> str:
    """What the sequences are taken from, in a few words."""

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
    its own with the one saved, to notice that a file or a setting has changed.
    """

  def batch(self, step: int) -> Batch:
    """Returns the training batch of a step, counted from 0."""

  def evaluation_batches(self) -> Iterator[Batch]:
    """Yields the fixed, finite list of batches that a split is judged by."""


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
  """Refuses a value that is none of the choices.

  Args:
    name: The argument's name, for the error.
    value: What was given.
    choices: What could have been given.

  Raises:
    ValueError: If `value` is not one of `choices`.
  """
  if value not in choices:
    known = ", ".join(repr(choice) for choice in choices)
    raise ValueError(f"{name} must be one of {known}; got {value!r}")


def check_at_least(name: str, value: int, smallest: int) -> None:
  """Refuses a number that is too small.

  Args:
    name: The argument's name, for the error.
    value: What was given.
    smallest: The smallest allowed number.

  Raises:
    ValueError: If `value` is less than `smallest`.
  """
  if value < smallest:
    raise ValueError(f"{name} must be at least {smallest}; got {value}")


def create_generator(seed: int, split: str, step: int) -> np.random.Generator:
  """Creates the random numbers that belong to one step of one split.

  Philox is a counter under a key. The seed is the key; the split and the step
  are the two high words of the counter. A step draws from 2^128 blocks of its
  own, so no two streams of a seed ever meet, and none needs the one before it.

  Args:
    seed: The key, 0 <= seed < 2^128.
    split: One of `SPLITS`.
    step: Counted from 0.

  Returns:
    A generator at the start of its stream.
  """
  counter = [0, 0, SPLITS.index(split), step]
  return np.random.Generator(np.random.Philox(key=seed, counter=counter))
