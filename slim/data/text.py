"""Sequences of a text, cut from one of its splits."""

import functools
import hashlib
from collections.abc import Iterator

import numpy as np

from slim.data import dataset
from slim.data.documents import Documents
from slim.data.splits import TextSplit
from slim.settings import SettingError
from slim.types import Batch

ORDERS = ("random", "consecutive")


class Text:
  """Sequences of T tokens from one split of a text, such as its bytes.

  A sequence takes T + 1 tokens: each of the first T is an input, and the one
  after it is the target. Weights are 1, except for padding in evaluation and
  for targets that begin a document: those are 0.

  Bytes are copied into memory once, so later changes of the file do not affect
  the run. Other tokens are left where they are.
  """

  def __init__(
    self,
    text: TextSplit,
    *,
    sequence_length: int,
    batch_size: int,
    seed: int,
    order: str,
    documents: Documents | None = None,
  ):
    """Reads the split.

    Args:
      text: The split, as from `cut_text`.
      sequence_length: T, tokens; fewer than the split has.
      batch_size: B, sequences.
      seed: Selects the sequences if `order` is "random"; at least 0.
      order: "random": a sequence starts at a uniformly random token.
        "consecutive": sequences follow one another through the split, and
        start over when fewer than T + 1 tokens are left.
      documents: Which the split has, to be kept apart; None: it is one.

    Raises:
      SettingError: If an argument is not as described.
    """
    dataset.check_choice("order", order, ORDERS)
    dataset.check_at_least("sequence_length", sequence_length, 1)
    dataset.check_at_least("batch_size", batch_size, 1)
    dataset.check_at_least("seed", seed, 0)
    self._unit = text.unit
    self._data = np.array(text.data) if self._unit == "bytes" else text.data
    if self._data.size <= sequence_length:
      raise SettingError(
        "sequence_length",
        f": {sequence_length} needs {sequence_length + 1} {self._unit} "
        f"in a split, but {text.split} has {self._data.size} of the text's "
        f"{text.size}; lower sequence_length or use a longer text",
      )
    self._name = text.name
    self._split = text.split
    self._text_size = text.size
    self._sequence_length = sequence_length
    self._batch_size = batch_size
    self._seed = seed
    self._order = order
    self._documents = documents

  @property
  def name(self) -> str:
    """The source of the sequences, in a few words."""
    return self._name

  @property
  def is_continuous(self) -> bool:
    """True: windows follow one another through the split."""
    return True

  @property
  def description(self) -> str:
    """The name, the split and every setting that its batches depend on."""
    packed = f", {self._documents.description}" if self._documents else ""
    return (
      f"{self._name}, {self._split}: "
      f"{self._data.size} of {self._text_size} {self._unit}{packed}, "
      f"{self._order} order, sequence_length={self._sequence_length}, "
      f"batch_size={self._batch_size}, seed={self._seed}"
    )

  @functools.cached_property
  def fingerprint(self) -> str:
    """The sha256 of `description`, the bytes of the split and its documents."""
    description = self.description.encode(errors="surrogateescape")
    digest = hashlib.sha256(description)
    digest.update(self._data.data)
    if self._data.dtype.str.startswith(">"):  # The same bytes, other tokens.
      digest.update(b">")
    if self._documents is not None:
      digest.update(self._documents.starts.data)
    return digest.hexdigest()

  def batch(self, step: int, rows: slice = dataset.ALL_ROWS) -> Batch:
    """Cuts the sequences of one step from the split.

    Args:
      step: Counted from 0.
      rows: Which of them.

    Returns:
      A Batch of NumPy arrays; it has positions if there are documents.
    """
    length = self._sequence_length
    if self._order == "random":
      generator = dataset.create_generator(self._seed, self._split, step)
      starts = generator.integers(
        0, self._data.size - length, size=self._batch_size
      )
    else:
      numbers = step * self._batch_size + np.arange(self._batch_size)
      starts = numbers % ((self._data.size - 1) // length) * length
    windows = np.lib.stride_tricks.sliding_window_view(self._data, length + 1)
    sequences = windows[starts[rows]].astype(np.int32)  # [B, T + 1].
    inputs, targets = sequences[:, :-1], sequences[:, 1:]
    weights = np.ones(inputs.shape, np.float32)
    tokens = starts[rows][:, None] + np.arange(length)
    return self._make_batch((inputs, targets, weights), tokens)

  def evaluation_batches(self) -> Iterator[Batch]:
    """Yields windows that cover the split, in order.

    Each token is a target once, except the first one of the split and of each
    document. Windows of T tokens follow one another, within a batch and from
    batch to batch. With `batch_size` 1 a state can be carried through the whole
    split. The last batch is padded with zeros of weight 0.

    Yields:
      Batches of NumPy arrays; they have positions if there are documents.
    """
    shape = (self._batch_size, self._sequence_length)
    size = self._batch_size * self._sequence_length
    for start in range(0, self._data.size - 1, size):
      data = self._data[start : start + size + 1]
      count = data.size - 1
      inputs = np.zeros(size, np.int32)
      targets = np.zeros(size, np.int32)
      weights = np.zeros(size, np.float32)
      inputs[:count], targets[:count], weights[:count] = data[:-1], data[1:], 1
      arrays = [x.reshape(shape) for x in (inputs, targets, weights)]
      tokens = (start + np.arange(size)).reshape(shape)
      yield self._make_batch(arrays, tokens)

  def _make_batch(self, arrays, tokens):
    """Adds positions, and ends each document: what follows it is no target."""
    inputs, targets, weights = arrays
    positions = None
    if self._documents is not None:
      positions = self._documents.positions(tokens)
      is_last = self._documents.positions(tokens + 1) == 0
      weights = np.where(is_last, np.float32(0), weights)
    return Batch._make((inputs, targets, weights, positions))
