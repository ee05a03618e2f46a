"""Where the documents of a text begin, for sequences that keep them apart."""

import os
from typing import NamedTuple

import numpy as np

from slim.data.splits import TextSplit, split_bounds
from slim.data.tokens import map_arrays
from slim.settings import SettingError

_PART = 2**24  # Tokens that are looked through at a time.


class Documents(NamedTuple):
  """The documents of a split.

  Attributes:
    starts: [n], int64, ascending: the token that each begins with. The first is
      0: a document that the split cuts begins there.
    description: What they were made from, in a few words.
  """

  starts: np.ndarray
  description: str

  def positions(self, tokens: np.ndarray) -> np.ndarray:
    """Returns the positions of some tokens in their documents.

    Args:
      tokens: Their indices in the split.

    Returns:
      Array like `tokens`, int32. Larger positions are 2³¹ - 1, which is beyond
      any sequence.
    """
    document = np.searchsorted(self.starts, tokens, side="right") - 1
    positions = tokens - self.starts[document]
    return np.minimum(positions, 2**31 - 1).astype(np.int32)


def positions_between(tokens: np.ndarray, separator: int) -> np.ndarray:
  """Returns the positions of tokens in documents that end with a separator.

  Args:
    tokens: [T], the tokens.
    separator: The last token of each document.

  Returns:
    [T], int32.
  """
  text = TextSplit("tokens", "test", tokens, tokens.size)
  documents = separated_documents(text, separator)
  return documents.positions(np.arange(tokens.size))


def find_documents(
  text: TextSplit,
  separator: int | None,
  lengths: str | os.PathLike[str] | None,
) -> Documents | None:
  """Finds the documents of a split by one of two descriptions.

  Args:
    text: The split.
    separator: As for `separated_documents`, or None.
    lengths: The path for `documents_of_lengths`, or None.

  Returns:
    The documents, or None without either: the text is one.

  Raises:
    SettingError: If both are given, one does not fit the text, or no document
      has two tokens.
  """
  if separator is not None and lengths is not None:
    raise SettingError(
      "document_lengths",
      f"must be None with pack_documents={separator}, got {str(lengths)!r}",
    )
  if separator is not None:
    name, documents = "pack_documents", separated_documents(text, separator)
  elif lengths is not None:
    name, documents = "document_lengths", documents_of_lengths(text, lengths)
  else:
    return None
  # A shorter split has no sequence at all.
  if documents.starts.size == text.data.size > 1:
    raise SettingError(
      name,
      "must make documents of two tokens or more, because the first token of "
      f"each is no target: in split {text.split} all have one token",
    )
  return documents


def separated_documents(text: TextSplit, separator: int) -> Documents:
  """Finds documents that end with a separator.

  Args:
    text: The split.
    separator: The last token of each document.

  Returns:
    The documents.

  Raises:
    SettingError: If the training split has no such token.
  """
  ends = [
    start + np.flatnonzero(text.data[start : start + _PART] == separator)
    for start in range(0, text.data.size, _PART)
  ]
  starts = np.concatenate([[0], *ends]) + 1
  starts[0] = 0
  # A short split may be a piece of one document.
  if starts.size == 1 and text.split == "train":
    raise SettingError(
      "pack_documents",
      f"must be a token that ends documents of the text, got {separator}, "
      f"which the split {text.split} does not contain",
    )
  starts = starts[starts < text.data.size].astype(np.int64)
  return Documents(starts, f"documents end with {separator}")


def documents_of_lengths(
  text: TextSplit, path: str | os.PathLike[str]
) -> Documents:
  """Reads the lengths of documents.

  Args:
    text: The split.
    path: A .npy file of the lengths of all documents of the text, in order; or
      a .npz file, as `np.savez` writes it, of those of each split, "train",
      "validation" and "test".

  Returns:
    The documents.

  Raises:
    SettingError: If the file cannot be read, or holds something else than
      lengths above 0 whose sum is the tokens of the text or of the split.
  """
  arrays = map_arrays("document_lengths", path)
  if len(arrays) == 1:
    [lengths] = arrays.values()
    first, end = split_bounds(text.size, text.split)
    size, whole = text.size, "text"
    if end - first != text.data.size:
      raise SettingError(
        "document_lengths",
        f": {str(path)!r} must have arrays train, validation and test, like "
        "the text, got one array",
      )
  else:
    lengths = arrays[text.split]
    first, end = 0, text.data.size
    size, whole = text.data.size, f"split {text.split}"
  total = int(lengths.sum(dtype=np.int64))
  if (lengths < 1).any() or total != size:
    raise SettingError(
      "document_lengths",
      f": {str(path)!r} must hold lengths above 0 whose sum is the {size} "
      f"{text.unit} of the {whole}, has {lengths.size} with a sum of {total}",
    )
  starts = np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64)])
  starts = starts[(starts > first) & (starts < end)] - first
  starts = np.concatenate([[0], starts])
  return Documents(starts, f"{starts.size} documents of given lengths")
