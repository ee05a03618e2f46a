"""Data: a batch is a pure function of the settings and the step."""

import os

from slim.data import dataset
from slim.data.copying import Copying
from slim.data.dataset import Dataset
from slim.data.text import VOCAB_SIZE, Text, load_text

__all__ = ["Copying", "Dataset", "Text", "create_dataset"]

_NAMES = ("copying", "text")


def create_dataset(
  name: str,
  *,
  split: str,
  sequence_length: int,
  batch_size: int,
  seed: int,
  vocab_size: int,
  path: str | os.PathLike[str] | None,
  order: str,
) -> Dataset:
  """Creates one split of a dataset from a run's settings.

  Args:
    name: "copying" (see `Copying`) or "text" (see `Text`).
    split: "train", "validation" or "test".
    sequence_length: T, tokens.
    batch_size: B, sequences.
    seed: Picks the sequences, at least 0.
    vocab_size: Tokens that the model knows; for "text" at least 256.
    path: The file of a "text"; None for "copying", which reads none.
    order: "random" or "consecutive" sequences of a "text"; "copying" has no
      order to choose.

  Returns:
    A Dataset.

  Raises:
    ValueError: If a setting is outside of what is said here, the file cannot
      be read or the split is too short for one sequence.
  """
  dataset.check_choice("name", name, _NAMES)
  settings = dict(
    split=split,
    sequence_length=sequence_length,
    batch_size=batch_size,
    seed=seed,
  )
  if name == "copying":
    if path is not None:
      raise ValueError(
        f"path: 'copying' reads no file, got {str(path)!r}; leave path out, or "
        "choose the dataset 'text'"
      )
    return Copying(vocab_size=vocab_size, **settings)
  if path is None:
    raise ValueError(
      "path: 'text' needs a file and got None; pass the path of a file to "
      "read as bytes"
    )
  # Indices past an embedding's end are clipped without a word, never refused.
  dataset.check_at_least("vocab_size", vocab_size, VOCAB_SIZE)
  return Text(load_text(path), order=order, **settings)
