"""The datasets that `config.data.name` can name; each is one entry."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from slim.data import dataset
from slim.data.copying import Copying
from slim.data.corpora import CORPORA
from slim.data.dataset import Dataset
from slim.data.documents import find_documents
from slim.data.reading import read_corpus
from slim.data.recall import AssociativeRecall
from slim.data.splits import (
  VOCAB_SIZE,
  TextSplit,
  check_uncompressed,
  cut_text,
  load_text,
)
from slim.data.synthetic import Synthetic
from slim.data.text import ORDERS, Text
from slim.data.tokenizer import Tokenizer
from slim.data.tokens import read_tokens
from slim.data.vocabulary import Bytes, Numbers, Vocabulary
from slim.settings import SettingError

Path = str | os.PathLike[str]


class CreateDataset(Protocol):
  """Creates a split from the arguments of `create_dataset`."""

  def __call__(
    self,
    *,
    split: str,
    sequence_length: int,
    batch_size: int,
    seed: int,
    vocab_size: int,
    path: Path | None,
    order: str,
  ) -> Dataset:
    """Returns the split."""


def _create_synthetic(
  task: type[Synthetic], *, path: Path | None, order: str, **settings: Any
) -> Synthetic:
  """Creates a synthetic task, which has no file and no order."""
  del order
  if path is not None:
    raise SettingError(
      "path",
      f": {task.task!r} reads no file, got {str(path)!r}; leave path out, or "
      "choose the dataset 'text'",
    )
  return task(**settings)


def _create_text(
  read_split: Callable[[Path | None, str], TextSplit],
  *,
  split: str,
  vocab_size: int,
  path: Path | None,
  order: str,
  pack_documents: int | None = None,
  document_lengths: Path | None = None,
  **settings: Any,
) -> Text:
  """Creates sequences of a text, whose tokens are bytes."""
  dataset.check_choice("split", split, dataset.SPLITS)
  # Other tokens would make the logits NaN without an error.
  dataset.check_at_least("vocab_size", vocab_size, VOCAB_SIZE)
  text = read_split(path, split)
  documents = find_documents(text, pack_documents, document_lengths)
  return Text(text, order=order, documents=documents, **settings)


def _create_tokens(
  *,
  split: str,
  vocab_size: int,
  path: Path | None,
  order: str,
  pack_documents: int | None = None,
  document_lengths: Path | None = None,
  **settings: Any,
) -> Text:
  """Creates sequences of a file of tokens."""
  dataset.check_choice("split", split, dataset.SPLITS)
  if path is None:
    raise SettingError(
      "path", ": 'tokens' needs a .npy or .npz file of integers, got None"
    )
  text = read_tokens(path, split, vocab_size)
  documents = find_documents(text, pack_documents, document_lengths)
  return Text(text, order=order, documents=documents, **settings)


def _read_file(path: Path | None, split: str) -> TextSplit:
  """Reads a split of any file."""
  if path is None:
    raise SettingError(
      "path",
      ": 'text' needs a file and got None; pass the path of a file to read as "
      "bytes",
    )
  data = load_text(path)
  check_uncompressed(path, data)
  return cut_text("text", data, split)


def _read_published(name: str, path: Path | None, split: str) -> TextSplit:
  """Reads a split of a published text from files, or with tfds."""
  if path is not None:
    return read_corpus(CORPORA[name], path, split)
  from slim.data import builders  # Importing tfds takes seconds.

  return builders.load_split(name, split)


_TEXTS = "text", "tokens", *CORPORA

# A new dataset is one entry.
DATASETS: dict[str, CreateDataset] = {
  **{
    task.task: partial(_create_synthetic, task)
    for task in (Copying, AssociativeRecall)
  },
  "text": partial(_create_text, _read_file),
  "tokens": _create_tokens,
  **{
    name: partial(_create_text, partial(_read_published, name))
    for name in CORPORA
  },
}


def create_dataset(
  name: str,
  *,
  split: str,
  sequence_length: int,
  batch_size: int,
  seed: int,
  vocab_size: int,
  path: Path | None,
  order: str,
  tokenizer: Path | None = None,
  pack_documents: int | None = None,
  document_lengths: Path | None = None,
) -> Dataset:
  """Creates one split of a dataset.

  Args:
    name: A key of `DATASETS`: "copying" (see `Copying`), "recall" (see
      `AssociativeRecall`), or a `Text`: "text", "tokens", or one of `CORPORA`,
      "ptb", "enwik8" or "tiny_shakespeare".
    split: "train", "validation" or "test".
    sequence_length: T, tokens.
    batch_size: B, sequences.
    seed: Selects the sequences, at least 0.
    vocab_size: Tokens that the model knows; at least 256 for all texts.
    path: For "text", the file. For a corpus, its file or the folder of its
      files (see `read_corpus`); None: prepared or downloaded with tfds. None
      for tasks.
    order: "random" or "consecutive" sequences of a text; ignored by tasks.
    tokenizer: What has made the tokens of "tokens"; see `create_vocabulary`.
    pack_documents: The token that ends a document, see
      `slim.data.documents`; None: the text is one document.
    document_lengths: Instead, a file; likewise.

  Returns:
    A Dataset.

  Raises:
    SettingError: If an argument is not as described, the data cannot be read or
      is not what it should be, or the split is too short for a sequence.
  """
  dataset.check_choice("name", name, tuple(DATASETS))
  dataset.check_choice("order", order, ORDERS)
  if tokenizer is not None and name != "tokens":
    raise SettingError(
      "tokenizer",
      f"must be None for name={name!r}, whose tokens need none, got "
      f"{str(tokenizer)!r}",
    )
  packing = {
    "pack_documents": pack_documents,
    "document_lengths": document_lengths,
  }
  packing = {k: value for k, value in packing.items() if value is not None}
  for key, value in packing.items():
    if name not in _TEXTS:
      raise SettingError(
        key, f"must be None for {name!r}, which is no text, got {value!r}"
      )
  return DATASETS[name](
    split=split,
    sequence_length=sequence_length,
    batch_size=batch_size,
    seed=seed,
    vocab_size=vocab_size,
    path=path,
    order=order,
    **packing,
  )


def create_vocabulary(
  name: str, *, vocab_size: int, tokenizer: Path | None = None
) -> Vocabulary:
  """Creates the vocabulary of a dataset.

  Args:
    name: A key of `DATASETS`.
    vocab_size: Tokens that the model knows.
    tokenizer: The tokenizer.json that made the tokens.

  Returns:
    Bytes for texts, the tokenizer if there is one, numbers for all others.

  Raises:
    SettingError: If the tokenizer cannot be read, or has larger tokens.
  """
  if name in ("text", *CORPORA):
    return Bytes()
  if tokenizer is not None:
    return Tokenizer(tokenizer, vocab_size)
  return Numbers(vocab_size)
