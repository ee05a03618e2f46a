"""Data: a batch is a pure function of the settings and the step."""

import os

from slim.data import dataset
from slim.data.copying import Copying
from slim.data.corpora import CORPORA
from slim.data.dataset import Dataset
from slim.data.reading import read_corpus
from slim.data.text import (
  ORDERS,
  VOCAB_SIZE,
  Text,
  TextSplit,
  check_uncompressed,
  cut_text,
  load_text,
)

__all__ = ["Copying", "Dataset", "Text", "create_dataset"]

_NAMES = ("copying", "text", *CORPORA)


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
    name: "copying" (see `Copying`); or, for a `Text`, "text" or one of
      `CORPORA`: "ptb", "enwik8" or "tiny_shakespeare".
    split: "train", "validation" or "test".
    sequence_length: T, tokens.
    batch_size: B, sequences.
    seed: Picks the sequences, at least 0.
    vocab_size: Tokens that the model knows; at least 256 for all texts.
    path: The file of a "text". For a corpus its file, or the folder of its
      files (see `read_corpus`), or None for what tfds has or downloads. None
      for "copying", which reads no file.
    order: "random" or "consecutive" sequences of a text; "copying" has no order
      to choose.

  Returns:
    A Dataset.

  Raises:
    ValueError: If a setting is outside of what is said here, the data cannot be
      had or is not what it should be, or the split is too short for a sequence.
  """
  dataset.check_choice("name", name, _NAMES)
  dataset.check_choice("order", order, ORDERS)  # Of "copying", too.
  settings = dict(
    sequence_length=sequence_length, batch_size=batch_size, seed=seed
  )
  if name == "copying":
    if path is not None:
      raise ValueError(
        f"path: 'copying' reads no file, got {str(path)!r}; leave path out, or "
        "choose the dataset 'text'"
      )
    return Copying(split=split, vocab_size=vocab_size, **settings)
  dataset.check_choice("split", split, dataset.SPLITS)
  # Indices past an embedding's end are clipped without a word, never refused.
  dataset.check_at_least("vocab_size", vocab_size, VOCAB_SIZE)
  return Text(_read_split(name, split, path), order=order, **settings)


def _read_split(
  name: str, split: str, path: str | os.PathLike[str] | None
) -> TextSplit:
  """Reads a split of a text from where it is to be had."""
  if name in CORPORA:
    if path is not None:
      return read_corpus(CORPORA[name], path, split)
    from slim.data import builders  # Only here: tfds takes seconds to import.

    return builders.load_split(name, split)
  if path is None:
    raise ValueError(
      "path: 'text' needs a file and got None; pass the path of a file to "
      "read as bytes"
    )
  data = load_text(path)
  check_uncompressed(path, data)
  return cut_text(name, data, split)
