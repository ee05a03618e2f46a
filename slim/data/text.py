"""Texts: reading the bytes of any file, and cutting sequences from a split."""

import functools
import hashlib
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from slim.data import dataset
from slim.files import local_path
from slim.settings import SettingError
from slim.types import Batch

VOCAB_SIZE = 256
ORDERS = ("random", "consecutive")

# The bounds of a split, in percent of the bytes. For the 10^8 bytes of enwik8
# these are the usual 90 M, 5 M and 5 M.
_PERCENT = {"train": (0, 90), "validation": (90, 95), "test": (95, 100)}

# The first bytes of compressed files, which cannot be modelled.
_COMPRESSED = {
  "7z": (b"7z\xbc\xaf\x27\x1c",),
  "bzip2": tuple(b"BZh%d1AY&SY" % level for level in range(1, 10)),
  "compress": (b"\x1f\x9d",),
  "gzip": (b"\x1f\x8b",),
  "lz4": (b"\x04\x22\x4d\x18",),
  "lzip": (b"LZIP\x01",),
  "lzma": (b"\x5d\x00\x00",),
  "rar": (b"Rar!\x1a\x07",),
  "snappy": (b"\xff\x06\x00\x00sNaPpY",),
  "xz": (b"\xfd7zXZ\x00",),
  "zip": (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08"),
  "zstd": (b"\x28\xb5\x2f\xfd",),
}


class TextSplit(NamedTuple):
  """The tokens of a split, and the text it belongs to."""

  name: str  # The whole text, in a few words.
  split: str  # One of `dataset.SPLITS`.
  data: np.ndarray  # The tokens of the split: uint8 for bytes, or any integers.
  size: int  # Tokens in the whole text.
  unit: str = "bytes"  # What tokens are.


def load_text(path: str | os.PathLike[str]) -> np.ndarray:
  """Maps a file into memory as an array of bytes.

  Args:
    path: Any file. Nothing is decoded.

  Returns:
    The bytes of the file, uint8, read-only.

  Raises:
    SettingError: If the file does not exist, cannot be read or is empty.
  """
  advice = "pass the path of a file to read as bytes"
  path = local_path("path", path)
  try:
    if os.path.getsize(path) == 0:
      raise SettingError("path", f": {str(path)!r} is empty, 0 bytes; {advice}")
    return np.memmap(path, np.uint8, mode="r")
  except OSError as error:
    raise SettingError(
      "path",
      f": cannot read {str(path)!r}: {error.strerror}; {advice}",
    ) from error


def check_uncompressed(path: str | os.PathLike[str], data: np.ndarray) -> None:
  """Raises if a text is compressed, judging by its first bytes.

  Args:
    path: The file, for the error.
    data: Its bytes, uint8.

  Raises:
    SettingError: If it is a gzip, zip, bzip2, xz, zstd … file.
  """
  for kind, beginnings in _COMPRESSED.items():
    if data[:16].tobytes().startswith(beginnings):
      raise SettingError(
        "path",
        f": {str(path)!r} is a text compressed by {kind}: unpack it, and "
        "pass the path of what is inside",
      )


def cut_text(name: str, data: np.ndarray, split: str) -> TextSplit:
  """Cuts a split from a text: the first 90 %, the next 5 % or the last 5 %.

  Args:
    name: The text, in a few words.
    data: The bytes of the whole text, uint8, or its tokens.
    split: One of `dataset.SPLITS`.

  Returns:
    The split; its data is a view of `data`. Bounds are rounded down.
  """
  start, stop = split_bounds(data.size, split)
  return TextSplit(name, split, data[start:stop], data.size)


def split_bounds(size: int, split: str) -> tuple[int, int]:
  """Returns the bounds of a split, as in `cut_text`.

  Args:
    size: Bytes in the whole text.
    split: One of `dataset.SPLITS`.

  Returns:
    The index of its first byte, and of the byte after its last.
  """
  start, stop = _PERCENT[split]
  return size * start // 100, size * stop // 100


class Text:
  """Sequences of T tokens from one split of a text, such as its bytes.

  A sequence takes T + 1 tokens: each of the first T is an input, and the one
  after it is the target. All weights are 1, except for padding in evaluation.

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
    return (
      f"{self._name}, {self._split}: "
      f"{self._data.size} of {self._text_size} {self._unit}, "
      f"{self._order} order, sequence_length={self._sequence_length}, "
      f"batch_size={self._batch_size}, seed={self._seed}"
    )

  @functools.cached_property
  def fingerprint(self) -> str:
    """The sha256 of `description` and the bytes of the split."""
    digest = hashlib.sha256(self.description.encode())
    digest.update(self._data.data)
    return digest.hexdigest()

  def batch(self, step: int, rows: slice = dataset.ALL_ROWS) -> Batch:
    """Cuts the sequences of one step from the split.

    Args:
      step: Counted from 0.
      rows: Which of them.

    Returns:
      A Batch: inputs and targets [B, T], int32; weights [B, T], float32.
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
    return Batch._make((inputs, targets, weights))

  def evaluation_batches(self) -> Iterator[Batch]:
    """Yields the whole split; every token except the first is a target once.

    Windows of T tokens follow one another, within a batch and from batch to
    batch. With `batch_size` 1 a state can be carried through the whole split.
    The last batch is padded with zeros of weight 0.

    Yields:
      Batches: inputs and targets [B, T], int32; weights [B, T], float32.
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
      yield Batch._make(x.reshape(shape) for x in (inputs, targets, weights))
